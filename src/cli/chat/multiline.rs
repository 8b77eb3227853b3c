//! Input of several lines: text between `"""`, and lines that end in a backslash, which continues them.

/// What encloses lines.
pub(super) const FENCE: &str = "\"\"\"";

/// Whether more lines are to come.
pub(super) fn is_open(text: &str) -> bool {
    match fenced(text) {
        Some(rest) => !is_closed(rest),
        None => goes_on(text),
    }
}

/// Whether the next line continues the text's last line. Between fences a backslash is literal.
pub(super) fn goes_on(text: &str) -> bool {
    text.ends_with('\\') && fenced(text).is_none()
}

/// What follows the fence that begins the text, or the text of `/system`.
fn fenced(text: &str) -> Option<&str> {
    let text = text.trim_start();
    let text = text.strip_prefix("/system ").map_or(text, str::trim_start);
    text.strip_prefix(FENCE)
}

fn is_closed(rest: &str) -> bool {
    rest.trim_end().ends_with(FENCE)
}

/// The text between fences, if it is enclosed so.
pub(super) fn inside(text: &str) -> Option<&str> {
    let rest = text.trim().strip_prefix(FENCE)?.strip_suffix(FENCE)?;
    let rest = rest.strip_prefix('\n').unwrap_or(rest);
    Some(rest.strip_suffix('\n').unwrap_or(rest))
}

/// Removes the backslashes that continued a line. `joints` are the lengths that the text had
/// each time: a backslash that was pasted is not one of them.
pub(super) fn join(text: &str, joints: &[usize]) -> String {
    let joined = |at: &usize| text.get(at.wrapping_sub(1)..*at + 1) == Some("\\\n");
    let mut joints: Vec<usize> = joints.iter().copied().filter(joined).collect();
    // A text may have been longer once than later.
    joints.sort_unstable();
    joints.dedup();
    let mut whole = text.to_owned();
    for at in joints.into_iter().rev() {
        whole.remove(at - 1);
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fences_and_backslashes_keep_the_text_open() {
        for text in ["a\\", "\"\"\"", " \"\"\"a\nb", "\"\"\"a \"\"\" b", "/system \"\"\"x\\", "\\"]
        {
            assert!(is_open(text), "{text}");
            assert_eq!(goes_on(text), !text.contains('"'), "{text}");
        }
        for text in
            ["", "a", "a\\\nb", "\"\"\"\"\"\"", "\"\"\"a\nb\n\"\"\" ", "say \"\"\"", "/x \"\"\""]
        {
            assert!(!is_open(text), "{text}");
        }
    }

    #[test]
    fn fences_and_joints_are_no_part_of_the_text() {
        assert_eq!(inside("\"\"\"\n a\n\nb\n\"\"\"\n"), Some(" a\n\nb"));
        assert_eq!(inside("\"\"\"a\"\"\""), Some("a"));
        assert_eq!(inside("\"\"\"\"\"\""), Some(""));
        assert_eq!(inside("\"\"\"a"), None);
        assert_eq!(join("a\\\nb\\\nc", &[2, 5]), "a\nb\nc");
        // A pasted line's backslash, and joints of a text that was edited since.
        assert_eq!(join("a\\\nb", &[]), "a\\\nb");
        assert_eq!(join("äx\\\nb", &[0, 1, 2, 3, 99]), "äx\\\nb");
    }

    proptest! {
        #[test]
        fn joints_in_any_order_take_their_backslashes_and_nothing_else(
            lines in prop::collection::vec("[aä\\\\]{0,3}", 1..5),
            joints in prop::collection::vec(0_usize..16, 0..8),
        ) {
            let text = lines.join("\n");
            let joined = join(&text, &joints);
            let mut expected = String::new();
            for (at, c) in text.char_indices() {
                let goes = c == '\\' && text[at + 1..].starts_with('\n') && joints.contains(&(at + 1));
                if !goes {
                    expected.push(c);
                }
            }
            prop_assert_eq!(joined, expected);
        }
    }
}

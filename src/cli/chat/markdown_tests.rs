use super::*;
use proptest::prelude::*;

use super::super::wrap::width;

/// What a terminal of so many columns shows, without styles.
fn shown(columns: usize, is_styled: bool, pieces: &[&str]) -> String {
    let mut markdown = Markdown::new(columns, is_styled, Style::default());
    let mut out: String = pieces.iter().map(|piece| markdown.push(piece)).collect();
    out.push_str(&markdown.end());
    out
}

/// The same, without sequences.
fn plain(columns: usize, text: &str) -> String {
    let shown = shown(columns, true, &[text]);
    let mut parts = shown.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + part.split_once('m').map_or("", |(_, text)| text))
}

#[test]
fn blocks_are_laid_out() {
    for (text, expected) in [
        ("# One\n\nText **b**.\nSecond line.", "One\n\nText b.\nSecond line."),
        ("- one two three four\n- b\n  goes on", "• one two\n  three four\n• b\n  goes on"),
        ("1. one\n2) two\n   - three", "1. one\n2) two\n   • three"),
        ("> quoted words go on", "│ quoted\n│ words go on"),
        ("a\n\n---\n\nb\n\n\n", "a\n\n─────────────\n\nb"),
        (
            "```py\nx = 1 * 2 ** 3 # long line\n\n```\nend",
            "── py ───────\nx = 1 * 2 ** 3 # long line\n\n─────────────\nend",
        ),
        ("| a | b |\n|---|--:|\n| `x` | 10 |\n| y | 9 |\nend", "a   b\n─────\nx  10\ny   9\nend"),
        ("| no table |\n", "| no table |"),
        ("#hash -dash 3.14 1999", "#hash -dash\n3.14 1999"),
        ("An old pond\nA frog\nSplash", "An old pond\nA frog\nSplash"),
    ] {
        assert_eq!(plain(13, text), expected, "{text}");
    }
    // What does not fit is shown as written.
    let wide = "| a long cell | another |\n|---|---|\n| 1 | 2 |";
    assert_eq!(plain(13, wide), wide);
}

#[test]
fn styles_are_sequences_and_end_before_a_line_does() {
    let out = shown(40, true, &["# T\n**b** `c`\n```\ncode\n```"]);
    assert_eq!(
        out,
        "\x1b[1;4mT\x1b[0m\n\x1b[1mb\x1b[0m \x1b[36mc\x1b[0m\n\
         \x1b[2m────────────────────────\x1b[0m\n\x1b[36mcode\x1b[0m\n\
         \x1b[2m────────────────────────\x1b[0m"
    );
}

#[test]
fn without_styles_the_source_is_shown_with_its_words_whole() {
    let text = "# One\n- **two** three four\n```\nlong code line `x`\n```\n| a |\n|---|";
    assert_eq!(
        shown(12, false, &[text]),
        "# One\n- **two**\nthree four\n```\nlong code line `x`\n```\n| a |\n|---|"
    );
}

#[test]
fn words_are_shown_as_soon_as_they_are_complete() {
    let mut markdown = Markdown::new(40, true, Style::default());
    assert_eq!(markdown.push("Some wo"), "Some");
    assert_eq!(markdown.push("rds and **bo"), " words and");
    assert_eq!(markdown.push("ld** te"), " \x1b[1mbold");
    assert_eq!(markdown.end(), "\x1b[0m te");
}

proptest! {
    #[test]
    fn the_result_does_not_depend_on_the_pieces(
        text in "([a-c#>|`*_~1. -]{0,6}\n?){0,12}",
        cuts in proptest::collection::vec(0_usize..60, 0..6),
        columns in 4_usize..30,
        is_styled: bool,
    ) {
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut < text.len()).collect();
        cuts.sort_unstable();
        let mut pieces = Vec::new();
        let mut from = 0;
        for cut in cuts {
            pieces.push(&text[from..cut]);
            from = cut;
        }
        pieces.push(&text[from..]);
        prop_assert_eq!(shown(columns, is_styled, &pieces), shown(columns, is_styled, &[&text]));
    }

    #[test]
    fn no_letter_is_lost_and_text_keeps_to_the_width(text in "([a-c*_`]{1,9}[ \n]){0,20}", columns in 12_usize..30) {
        let out = plain(columns, &text);
        let letters = |text: &str| text.chars().filter(char::is_ascii_alphabetic).collect::<String>();
        prop_assume!(!text.contains("```"));
        prop_assert_eq!(letters(&out), letters(&text));
        for line in out.lines() {
            prop_assert!(width(line) <= columns, "{:?}", line);
        }
    }
}

use std::num::NonZeroU32;

use super::*;
use proptest::prelude::*;

fn key(fill: u8) -> Key {
    Key::new([fill; 32])
}

fn line(name: &str, fill: u8) -> String {
    KeyLine::new(name, Scope::Use, Limits::default(), &key(fill)).unwrap().to_string()
}

#[test]
fn a_key_opens_by_its_text_and_by_nothing_else() {
    let file = format!("# ours\n\n{}\n  {} # \n", line("a", 1), "").replace(" # ", "");
    let keys = Keys::new(parse(&format!("{file}{}\n", line("b", 2))).unwrap());
    assert_eq!(&*keys.find(key(1).reveal().as_bytes()).unwrap().name, "a");
    assert_eq!(&*keys.find(key(2).reveal().as_bytes()).unwrap().name, "b");
    let hash = blake3::hash(key(1).reveal().as_bytes()).to_hex();
    for wrong in ["", "a", hash.as_str(), key(3).reveal(), &key(1).reveal()[1..]] {
        assert!(keys.find(wrong.as_bytes()).is_none(), "{wrong}");
    }
    assert!(!format!("{:?}", key(1)).contains("01"), "a key must not get into a log");
}

#[test]
fn every_bad_line_is_reported_with_its_number() {
    let hash = "0".repeat(64);
    let good = line("good", 1);
    let cases = [
        ("na:me blake3=x", "the name \"na:me\""),
        ("x", "blake3= is missing"),
        ("x blake3=12", "64 hexadecimal digits"),
        ("x stray", "expected FIELD=VALUE"),
        ("x color=red", "\"color\" is no field"),
        ("x scope=root", "use or admin"),
        ("x max_in_flight=0", "a whole number above 0"),
        ("x tokens_per_minute=-5", "a whole number above 0"),
        ("x scope=use scope=admin", "scope is there twice"),
        (&good.clone(), "the same name or key as in line 1"),
        (
            &format!("other {}", good.split_once(' ').unwrap().1),
            "the same name or key as in line 1",
        ),
        (&format!("good blake3={hash}"), "the same name or key as in line 1"),
    ];
    let mut text = good.clone();
    for (bad, _) in &cases {
        text.push('\n');
        text.push_str(bad);
    }
    let faults = parse(&text).unwrap_err();
    assert_eq!(faults.len(), cases.len(), "{faults:?}");
    for (index, (fault, (_, said))) in faults.iter().zip(&cases).enumerate() {
        assert_eq!(fault.line, index + 2);
        assert!(fault.reason.contains(said), "{fault:?} does not say {said}");
    }
}

#[test]
fn what_a_key_used_stays_with_it_and_not_with_its_name() {
    let of = |text: &str| Keys::new(parse(text).unwrap());
    let old = of(&line("a", 1));
    let mut renamed = of(&line("b", 1));
    let mut replaced = of(&line("a", 2));
    renamed.count_on_from(&old);
    replaced.count_on_from(&old);
    assert!(Arc::ptr_eq(&renamed.0[0].usage, &old.0[0].usage));
    assert!(!Arc::ptr_eq(&replaced.0[0].usage, &old.0[0].usage));
}

proptest! {
    #[test]
    fn lines_read_back_as_they_were_written(
        name in "[A-Za-z0-9._-]{1,64}", admin: bool, fill: u8,
        in_flight in proptest::option::of(1..=u32::MAX),
        tokens in proptest::option::of(1..=u32::MAX),
    ) {
        let limits = Limits {
            max_in_flight: in_flight.and_then(NonZeroU32::new),
            tokens_per_minute: tokens.and_then(NonZeroU32::new),
        };
        let scope = if admin { Scope::Admin } else { Scope::Use };
        let written = KeyLine::new(&name, scope, limits, &key(fill)).unwrap();
        prop_assert_eq!(parse(&written.to_string()).unwrap(), [written]);
    }

    #[test]
    fn any_text_is_keys_or_faults(text in "[a-z0-9= \n#_]{0,200}") {
        let lines = text.lines().filter(|line| holds_key(line)).count();
        match parse(&text) {
            Ok(keys) => prop_assert_eq!(keys.len(), lines),
            Err(faults) => prop_assert!((1..=lines).contains(&faults.len())),
        }
    }
}

//! The `format`s of strings that are enforced, each by a regular expression. All others are
//! annotations, as the standard permits.
//!
//! An expression may allow less than its standard: no leap seconds, no comments in addresses. What
//! it allows is valid by the standard and by the validators in use.

/// Years 0001 to 9999.
macro_rules! year {
    () => {
        "(?:[0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)"
    };
}

/// Numbers of two digits from 04 to 96 that are multiples of 4.
macro_rules! fours {
    () => {
        "(?:0[48]|[2468][048]|[13579][26])"
    };
}

/// RFC 3339's full-date, by the Gregorian calendar.
macro_rules! date {
    () => {
        concat!(
            "(?:",
            year!(),
            "-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])",
            "|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)",
            "|02-(?:0[1-9]|1[0-9]|2[0-8]))",
            "|(?:[0-9]{2}",
            fours!(),
            "|",
            fours!(),
            "00)-02-29)"
        )
    };
}

/// RFC 3339's full-time.
macro_rules! time {
    () => {
        concat!(
            r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?",
            "(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
        )
    };
}

/// A label of a host name, of at most 61 characters. Two hyphens in a row are left out: at some
/// places they begin an encoded name, which would have to be checked.
macro_rules! label {
    () => {
        "[a-zA-Z0-9](?:-?[a-zA-Z0-9]){0,30}"
    };
}

/// The last label: no number, or the name would be an address.
macro_rules! top {
    () => {
        "[a-zA-Z](?:-?[a-zA-Z0-9]){0,30}"
    };
}

macro_rules! octet {
    () => {
        "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
    };
}

macro_rules! ipv4 {
    () => {
        concat!("(?:", octet!(), r"\.){3}", octet!())
    };
}

/// 16 bits of an IPv6 address.
macro_rules! group {
    () => {
        "[0-9a-fA-F]{1,4}"
    };
}

/// `n` to `m` groups on the left of `::`, and as many on the right as leave one out.
macro_rules! shortened {
    ($left:literal, $right:literal) => {
        concat!("|(?:", group!(), ":){", $left, "}(?::", group!(), "){1,", $right, "}")
    };
}

/// A character of a URI's path (RFC 3986's pchar).
macro_rules! pchar {
    () => {
        "(?:[a-zA-Z0-9._~!$&'()*+,;=:@-]|%[0-9a-fA-F]{2})"
    };
}

/// Each enforced format and its expression, anchored at both ends.
pub(super) const ENFORCED: [(&str, &str); 10] = [
    ("date", concat!("^", date!(), "$")),
    ("time", concat!("^", time!(), "$")),
    ("date-time", concat!("^", date!(), "T", time!(), "$")),
    // RFC 3339, appendix A.
    (
        "duration",
        concat!(
            "^P(?:(?:[0-9]{1,9}Y(?:[0-9]{1,9}M(?:[0-9]{1,9}D)?)?|[0-9]{1,9}M(?:[0-9]{1,9}D)?",
            "|[0-9]{1,9}D)",
            "(?:T(?:[0-9]{1,9}H(?:[0-9]{1,9}M(?:[0-9]{1,9}S)?)?|[0-9]{1,9}M(?:[0-9]{1,9}S)?",
            "|[0-9]{1,9}S))?",
            "|T(?:[0-9]{1,9}H(?:[0-9]{1,9}M(?:[0-9]{1,9}S)?)?|[0-9]{1,9}M(?:[0-9]{1,9}S)?",
            "|[0-9]{1,9}S)",
            "|[0-9]{1,9}W)$"
        ),
    ),
    // RFC 5321's Mailbox with a dot-string of at most 64 characters and a domain of several labels.
    (
        "email",
        concat!(
            r"^[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-](?:\.?[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]){0,31}@(?:",
            label!(),
            r"\.){1,3}",
            top!(),
            "$"
        ),
    ),
    ("hostname", concat!("^(?:", label!(), r"\.){0,3}", top!(), "$")),
    ("ipv4", concat!("^", ipv4!(), "$")),
    (
        "ipv6",
        concat!(
            "^(?:(?:",
            group!(),
            ":){7}",
            group!(),
            "|::|(?:",
            group!(),
            ":){1,7}:|:(?::",
            group!(),
            "){1,7}",
            shortened!("1", "6"),
            shortened!("2", "5"),
            shortened!("3", "4"),
            shortened!("4", "3"),
            shortened!("5", "2"),
            shortened!("6", "1"),
            "|::(?:[fF]{4}:)?",
            ipv4!(),
            ")$"
        ),
    ),
    ("uuid", "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"),
    // With an authority, or as `urn:` and `mailto:` are.
    (
        "uri",
        concat!(
            "^[a-zA-Z][a-zA-Z0-9+.-]{0,30}:(?://(?:",
            label!(),
            r"\.){0,3}",
            top!(),
            "(?::[0-9]{1,5})?(?:/",
            pchar!(),
            "*)*|/?",
            pchar!(),
            "+(?:/",
            pchar!(),
            r"*)*)(?:\?(?:",
            pchar!(),
            "|[/?])*)?(?:#(?:",
            pchar!(),
            "|[/?])*)?$"
        ),
    ),
];

/// The expression of an enforced format.
pub(super) fn pattern(format: &str) -> Option<&'static str> {
    ENFORCED.iter().find(|(name, _)| *name == format).map(|(_, pattern)| *pattern)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use proptest::prelude::*;
    use regex::Regex;

    use super::*;

    fn matches(format: &str, text: &str) -> bool {
        Regex::new(pattern(format).unwrap()).unwrap().is_match(text)
    }

    fn days(year: u32, month: u32) -> u32 {
        let leap =
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        match month {
            2 => 28 + u32::from(leap),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    /// Every day of every year from 0 to 9999 would take a minute; every end of a month does not.
    #[test]
    fn dates_are_those_of_the_calendar() {
        let date = Regex::new(pattern("date").unwrap()).unwrap();
        for year in 0..=9999 {
            for month in 1..=12 {
                let last = days(year, month);
                let is = |day: u32| date.is_match(&format!("{year:04}-{month:02}-{day:02}"));
                assert_eq!(is(last), year > 0, "{year} {month} {last}");
                assert!(!is(last + 1) && !is(0), "{year} {month}");
            }
            assert!(!date.is_match(&format!("{year:04}-00-01")));
            assert!(!date.is_match(&format!("{year:04}-13-01")));
        }
        for text in ["2024-2-29", "12024-02-02", "2024-02-29\n", "2024-02-29 ", "٢٠٢٤-٠٢-٠١"]
        {
            assert!(!date.is_match(text), "{text:?}");
        }
    }

    /// A format, what it takes and what it refuses.
    type Row = (&'static str, &'static [&'static str], &'static [&'static str]);

    const TABLE: [Row; 9] = [
        (
            "time",
            &["00:00:00Z", "23:59:59.5+23:59", "12:00:00-00:00"],
            &["24:00:00Z", "12:60:00Z", "12:00:60Z", "12:00:00", "12:00Z", "12:00:00+24:00"],
        ),
        (
            "date-time",
            &["2024-02-29T00:00:00Z", "1999-12-31T23:59:59.999+01:00"],
            &["2023-02-29T00:00:00Z", "2024-02-29", "2024-02-29 00:00:00Z", "0000-01-01T00:00:00Z"],
        ),
        (
            "duration",
            &["P1Y2M3DT4H5M6S", "P1W", "PT0S", "P1M", "P3DT1M"],
            &["P", "PT", "P1YT", "P1D2H", "P1W1D", "1D", "P1H", "P1Y1D"],
        ),
        (
            "email",
            &["a@b.cd", "a.b+c@x-y.example.org"],
            &["a@b", "@b.cd", ".a@b.cd", "a.@b.cd", "a..b@c.de", "a@-b.cd", "a@b.1", "a b@c.de"],
        ),
        (
            "hostname",
            &["localhost", "a.b", "x-1.example.com"],
            &["", "-a", "a-", "a..b", "a.", "a_b", "1.2.3.4", "xn--a"],
        ),
        ("ipv4", &["0.0.0.0", "255.255.255.255"], &["256.0.0.1", "01.0.0.1", "1.2.3", "1.2.3.4.5"]),
        (
            "ipv6",
            &["::", "::1", "1::", "1:2:3:4:5:6:7:8", "1::8", "::ffff:1.2.3.4", "1:2:3:4:5:6:7::"],
            &["", ":", "1", "1:2:3:4:5:6:7", "1::2::3", "1:2:3:4:5:6:7:8:9", "12345::", "::g"],
        ),
        (
            "uuid",
            &["123e4567-e89b-12d3-a456-426614174000"],
            &["123e4567e89b12d3a456426614174000", "123e4567-e89b-12d3-a456-42661417400g"],
        ),
        (
            "uri",
            &["http://example.com/a?b=c#d", "urn:isbn:0451450523", "mailto:a@b.cd", "ftp://h:21/"],
            &[
                "",
                "a",
                "/a",
                "//h",
                "http:// x",
                "http://h/%zz",
                "1a:b",
                "a:",
                "http://h/[",
                "a:b\n",
            ],
        ),
    ];

    #[test]
    fn each_format_takes_and_refuses() {
        for (format, valid, invalid) in TABLE {
            for text in valid {
                assert!(matches(format, text), "{format}: {text:?}");
            }
            for text in invalid {
                assert!(!matches(format, text), "{format}: {text:?}");
            }
        }
    }

    proptest! {
        /// What the expression allows is an address, and an address's own spelling is allowed.
        #[test]
        fn ipv6_is_as_the_standard_library_reads_it(
            bits in any::<u128>(),
            mask in any::<u128>(),
            text in "(:|::|[0-9a-f]{1,4}:){1,9}[0-9a-f]{0,4}",
        ) {
            let sparse = Ipv6Addr::from(bits & mask & mask.rotate_left(16));
            prop_assert!(matches("ipv6", &sparse.to_string()), "{sparse}");
            prop_assert!(!matches("ipv6", &text) || text.parse::<Ipv6Addr>().is_ok(), "{}", text);
        }
    }
}

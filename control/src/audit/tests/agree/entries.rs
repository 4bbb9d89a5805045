//! Entries that whoever holds the key signed, and what they may look like.

use super::*;

/// An entry whose key's holder signed it, and whether it may be one. `~` stands for the fields of one.
const SIGNED: &[(&str, bool)] = &[
    ("{~}", true),
    (" \t\r\n{~} \n", true),
    ("\u{b}{~}", false),
    ("{~}\u{a0}", false),
    ("{~}{~}", false),
    ("{~},", false),
    ("{~,}", false),
    ("[{~}]", false),
    ("", false),
    (" ", false),
    ("{}", false),
    ("null", false),
    ("\u{feff}{~}", false),
    ("{~}\0", false),
    ("{~,\"w\":1}", false),
    ("{~,\"V\":1}", false),
    ("{~,\"v\":1}", false),
    ("{~,\"\\u0076\":1}", false),
    ("{~,\"detail\":null}", true),
    ("{~,\"detail\":{\"a\":1,\"b\":1}}", true),
    ("{~,\"detail\":{\"a\":1,\"a\":1}}", false),
    ("{~,\"detail\":{\"a\":1,\"\\u0061\":2}}", false),
    ("{~,\"detail\":[{\"b\":{\"a\":1,\"c\":[],\"a\":1}}]}", false),
    ("{~,\"detail\":{\"a\":{\"a\":1}}}", true),
    ("{~,\"detail\":NaN}", false),
    ("{~,\"detail\":Infinity}", false),
    ("{~,\"detail\":-Infinity}", false),
    ("{~,\"detail\":1.0}", false),
    ("{~,\"detail\":1e2}", false),
    ("{~,\"detail\":1E400}", false),
    ("{~,\"detail\":-0}", false),
    ("{~,\"detail\":0}", true),
    ("{~,\"detail\":-1}", true),
    ("{~,\"detail\":00}", false),
    ("{~,\"detail\":01}", false),
    ("{~,\"detail\":+1}", false),
    ("{~,\"detail\":1.}", false),
    ("{~,\"detail\":.1}", false),
    ("{~,\"detail\":0x1}", false),
    ("{~,\"detail\":1_000}", false),
    ("{~,\"detail\":\u{661}}", false),
    ("{~,\"detail\":18446744073709551615}", true),
    ("{~,\"detail\":18446744073709551616}", false),
    ("{~,\"detail\":-9223372036854775808}", true),
    ("{~,\"detail\":-9223372036854775809}", false),
    ("{~,\"detail\":True}", false),
    ("{~,\"detail\":true}", true),
    ("{~,\"detail\":'a'}", false),
    ("{~,\"detail\":\"\t\"}", false),
    ("{~,\"detail\":\"\n\"}", false),
    ("{~,\"detail\":\"\u{7f}\u{85}\u{2028}\"}", true),
    ("{~,\"detail\":\"\\u0000\"}", true),
    ("{~,\"detail\":\"\\ud83d\\ude00\"}", true),
    ("{~,\"detail\":\"\\ud83d\"}", false),
    ("{~,\"detail\":\"\\ude00\"}", false),
    ("{~,\"detail\":\"\\ude00\\ud83d\"}", false),
    ("{~,\"detail\":\"\\ud83d\\u0041\"}", false),
    ("{~,\"detail\":{\"\\ud83d\":1}}", false),
    ("{~,\"detail\":\"\\uD83D\\uDE00\"}", true),
    ("{~,\"detail\":\"\\\\ud83d\"}", true),
    ("{~,\"detail\":\"\\u12\"}", false),
    ("{~,\"detail\":\"\\u 123\"}", false),
    ("{~,\"detail\":\"\\u+123\"}", false),
    ("{~,\"detail\":\"\\x41\"}", false),
    ("{~,\"detail\":\"\\/\"}", true),
    ("{~,\"detail\":\"\\'\"}", false),
    ("{~,\"detail\":\"a}", false),
    ("{~,\"detail\":{1:2}}", false),
    ("{~,\"detail\":[1,]}", false),
    ("{~,\"detail\":[1 2]}", false),
    ("{~,\"detail\":/**/1}", false),
    ("{~,\"detail\":}", false),
    ("{~,\"detail\"}", false),
    ("{~,detail:1}", false),
    ("{~,\"peer\":\"\"}", true),
    ("{~,\"peer\":null}", false),
    ("{~,\"peer\":1}", false),
    ("{~,\"project\":null}", true),
    ("{~,\"project\":\"heart\"}", true),
    ("{~,\"project\":[]}", false),
    ("{~,\"level\":\"3\"}", true),
    ("{~,\"level\":null}", true),
    ("{~,\"level\":3}", false),
    ("{~,\"pack\":null}", true),
    ("{~,\"pack\":{}}", false),
    ("{~,\"reasons\":[]}", true),
    ("{~,\"reasons\":[\"a\"]}", true),
    ("{~,\"reasons\":[1]}", false),
    ("{~,\"reasons\":[null]}", false),
    ("{~,\"reasons\":\"a\"}", false),
    ("{~,\"reasons\":{}}", false),
    ("{~,\"reasons\":null}", false),
    ("{~,\"changes\":[]}", true),
    ("{~,\"changes\":[1,null,{\"a\":[]}]}", true),
    ("{~,\"changes\":null}", false),
    ("{~,\"changes\":{}}", false),
];

const FIELDS: &str = r#""v":1,"index":1,"time":"2026-11-03T13:00:00Z","request":"r","actor":"a","action":"b","resource":"c","outcome":"allowed""#;

/// A field of [`FIELDS`] in another form.
const FIELD: &[(&str, &str, bool)] = &[
    ("\"v\":1", "\"v\":2", false),
    ("\"v\":1", "\"v\":true", false),
    ("\"v\":1", "\"v\":1.0", false),
    ("\"v\":1", "\"v\":\"1\"", false),
    ("\"v\":1", "\"v\":4294967297", false),
    ("\"v\":1", "\"\\u0076\":1", true),
    ("\"index\":1", "\"index\":0", false),
    ("\"index\":1", "\"index\":2", false),
    ("\"index\":1", "\"index\":-1", false),
    ("\"index\":1", "\"index\":1.0", false),
    ("\"index\":1", "\"index\":1e0", false),
    ("\"index\":1", "\"index\":\"1\"", false),
    ("\"index\":1", "\"index\":true", false),
    ("\"index\":1", "\"index\":null", false),
    ("\"index\":1", "\"index\":[1]", false),
    ("\"index\":1", "\"index\":18446744073709551617", false),
    ("\"index\":1", "\"index\":18446744073709551616000000000000000000001", false),
    ("\"index\":1,", "", false),
    ("\"v\":1,", "", false),
    (",\"outcome\":\"allowed\"", "", false),
    ("\"allowed\"", "null", false),
    ("\"allowed\"", "1", false),
    ("\"allowed\"", "\"\"", true),
    ("\"a\"", "[\"a\"]", false),
    ("\"2026-11-03T13:00:00Z\"", "1762174800", false),
    ("\"2026-11-03T13:00:00Z\"", "null", false),
    ("13:00:00Z", "13:00:00.5Z", true),
    ("13:00:00Z", "13:00:00.123456789Z", true),
    ("13:00:00Z", "13:00:00.000000001Z", true),
    ("13:00:00Z", "13:00:00.1234567891Z", false),
    ("13:00:00Z", "13:00:00.50Z", false),
    ("13:00:00Z", "13:00:00.0Z", false),
    ("13:00:00Z", "13:00:00.Z", false),
    ("13:00:00Z", "13:00:00,5Z", false),
    ("13:00:00Z", "13:00:00z", false),
    ("13:00:00Z", "13:00:00", false),
    ("13:00:00Z", "13:00Z", false),
    ("13:00:00Z", "13:00:60Z", false),
    ("13:00:00Z", "23:59:60Z", false),
    ("13:00:00Z", "24:00:00Z", false),
    ("13:00:00Z", "13:00:00+00:00", false),
    ("13:00:00Z", "14:00:00+01:00", false),
    ("13:00:00Z", "13:00:00Z[UTC]", false),
    ("13:00:00Z", "13:00:00Z ", false),
    ("13:00:00Z", "13:00:00Z\\n", false),
    ("13:00:00Z", "13:00:0\u{660}Z", false),
    ("T13", " 13", false),
    ("T13", "t13", false),
    ("2026-11-03", "2026-11-31", false),
    ("2026-11-03", "2026-02-29", false),
    ("2026-11-03", "2024-02-29", true),
    ("2026-11-03", "2026-13-01", false),
    ("2026-11-03", "2026-00-01", false),
    ("2026-11-03", "20261103", false),
    ("2026-11-03", "1970-01-01", true),
    ("2026-11-03", "1969-12-31", false),
    ("2026-11-03", "9998-12-31", true),
    ("2026-11-03", "9999-01-01", false),
    ("2026-11-03", "9999-12-31", false),
    ("2026-11-03", "0000-01-01", false),
    ("2026-11-03", "+002026-11-03", false),
    ("2026-11-03", "-002026-11-03", false),
];

#[test]
fn both_read_entries_alike_whoever_signed_them() {
    let mut cases = Cases::new();
    let mut say = |good: bool, name: &str, body: Vec<u8>| {
        cases.add(name, good, &log_of(&[self::body(0), body, self::body(2)], key()));
    };
    for (text, good) in SIGNED {
        say(*good, text, text.replace('~', FIELDS).into_bytes());
    }
    for (from, to, good) in FIELD {
        assert!(FIELDS.contains(from), "{from}");
        say(*good, &format!("{from} as {to}"), format!("{{{}}}", FIELDS.replacen(from, to, 1)).into_bytes());
    }
    let detail = |detail: &str| format!("{{{FIELDS},\"detail\":{detail}}}").into_bytes();
    for (depth, good) in [(126, true), (127, false), (128, false), (5_000, false), (30_000, false)] {
        say(
            good,
            &format!("lists {depth} deep"),
            detail(&format!("{}{}", "[".repeat(depth), "]".repeat(depth))),
        );
        let objects = format!("{}1{}", "{\"a\":".repeat(depth.min(9_000)), "}".repeat(depth.min(9_000)));
        say(good, &format!("objects {depth} deep"), detail(&objects));
        say(false, &format!("{depth} lists open"), detail(&"[".repeat(depth)));
        let flat = format!("[{}[]]", "[],".repeat(depth.min(20_000)));
        say(true, &format!("{depth} lists beside each other"), detail(&flat));
        say(
            true,
            &format!("{depth} brackets in a text"),
            detail(&format!("\"\\\"{}\"", "[{".repeat(depth / 2))),
        );
    }
    say(false, "a number of 60,000 digits", detail(&"9".repeat(60_000)));
    say(true, "the longest entry", detail(&format!("\"{}\"", "x".repeat(65_535 - detail("\"\"").len()))));
    for bytes in [b"\xff".as_slice(), b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc3", b"\xe2\x82"]
    {
        say(
            false,
            &format!("{bytes:x?} in a text"),
            [&detail("\"")[..detail("\"").len() - 1], bytes, b"\"}"].concat(),
        );
        say(false, &format!("{bytes:x?} before"), [bytes, &detail("1")].concat());
        say(false, &format!("{bytes:x?} after"), [&detail("1"), bytes].concat());
    }
    let wide: Vec<u8> = detail("1").iter().flat_map(|byte| [*byte, 0]).collect();
    say(false, "two bytes a character", wide);
    // Its struct written as a list, which some readers take for one.
    say(
        false,
        "a list",
        br#"[1,1,"2026-11-03T13:00:00Z","r","a","","b","c",null,"allowed",[],null,null,[]]"#.to_vec(),
    );
    cases.judge();
}

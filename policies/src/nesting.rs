//! How deeply a file is nested, found out before Cedar reads it.
//!
//! Cedar calls itself for each bracket, and makes a tree of what it reads that it walks in the same way. A file of 1 MiB
//! has room for more levels than a stack has, and a program whose stack runs out ends without a word.

/// Brackets, `if` and `Set` that may be open at once.
const DEEP_MAX: usize = 32;
/// Words and signs of one policy or declaration: what operators join is as deep as it is long.
const LONG_MAX: usize = 2000;

/// An error is the byte offset of what is wrong, and what.
pub(crate) fn check(text: &str) -> Result<(), (usize, String)> {
    let (mut open, mut inner, mut long) = (Vec::new(), 0_usize, 0_usize);
    let mut rest = text;
    while let Some((token, after)) = next(rest) {
        let offset = text.len() - after.len() - token.len();
        match token {
            "(" | "[" | "{" => open.push((token, offset)),
            // Cedar tells of one that closes nothing, and goes on: what it was to close stays open.
            ")" | "]" | "}" if open.last().is_some_and(|(opened, _)| closes(opened, token)) => {
                open.pop();
            }
            "if" | "Set" => inner += 1,
            ";" if open.is_empty() => (inner, long) = (0, 0),
            _ => {}
        }
        long += 1;
        if open.len() + inner > DEEP_MAX {
            return Err((offset, format!("it is nested more than {DEEP_MAX} deep: split it")));
        }
        if long > LONG_MAX {
            return Err(match open.first() {
                Some((opened, at)) => (*at, format!("`{opened}` is not closed, or far from here")),
                None => (offset, format!("it has more than {LONG_MAX} words and signs: split it")),
            });
        }
        rest = after;
    }
    Ok(())
}

fn closes(opened: &str, token: &str) -> bool {
    matches!((opened, token), ("(", ")") | ("[", "]") | ("{", "}"))
}

/// The first word or sign, without what stands in quotes and in comments; and what comes after it.
fn next(text: &str) -> Option<(&str, &str)> {
    let mut rest = text.trim_start();
    while let Some(comment) = rest.strip_prefix("//") {
        rest = comment.split_once(['\n', '\r']).map_or("", |(_, after)| after).trim_start();
    }
    let first = rest.chars().next()?;
    let run = |of: fn(char) -> bool| rest.find(|c| !of(c)).unwrap_or(rest.len());
    let length = match first {
        '"' => quoted(rest),
        '0'..='9' => run(|c| c.is_ascii_digit()),
        _ if is_word(first) => run(is_word),
        _ => first.len_utf8(),
    };
    rest.split_at_checked(length)
}

/// Bytes of what stands in quotes, with them.
fn quoted(text: &str) -> usize {
    let mut escaped = false;
    let end = text.char_indices().skip(1).find(|(_, c)| {
        let ends = *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |(offset, _)| offset + 1)
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

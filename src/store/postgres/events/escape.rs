//! Text as PostgreSQL can hold it: it has no place for U+0000.
//!
//! U+0001 is the escape: `U+0001 0` stands for U+0000, and `U+0001 1` for U+0001 itself. So two texts
//! are equal if and only if their escaped forms are, and filters compare those.

use std::borrow::Cow;

/// The form of a text that is stored.
pub(in crate::store::postgres) fn escape(text: &str) -> Cow<'_, str> {
    if memchr::memchr2(0, 1, text.as_bytes()).is_none() {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\0' => escaped.push_str("\u{1}0"),
            '\u{1}' => escaped.push_str("\u{1}1"),
            other => escaped.push(other),
        }
    }
    Cow::Owned(escaped)
}

/// The text that is stored in this form; `None` if none is.
pub(in crate::store::postgres) fn unescape(text: &str) -> Option<Cow<'_, str>> {
    if memchr::memchr(1, text.as_bytes()).is_none() {
        return Some(Cow::Borrowed(text));
    }
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        plain.push(match c {
            '\u{1}' => match chars.next()? {
                '0' => '\0',
                '1' => '\u{1}',
                _ => return None,
            },
            other => other,
        });
    }
    Some(Cow::Owned(plain))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn text_comes_back_and_has_no_zero(text in "[\u{0}\u{1}01aü]{0,12}") {
            let stored = escape(&text);
            prop_assert!(!stored.contains('\0'));
            let found = unescape(&stored).unwrap();
            prop_assert_eq!(found.as_ref(), text.as_str());
        }

        #[test]
        fn what_is_no_stored_form_is_refused(text in "[\u{1}01a]{0,6}") {
            if let Some(plain) = unescape(&text) {
                let stored = escape(&plain).into_owned();
                prop_assert_eq!(stored, text.as_str());
            }
        }
    }
}

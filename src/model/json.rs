//! JSON text, looked at without building values of it.

use serde::de::IgnoredAny;

/// How deep a request's JSON may be nested.
pub const MAX_DEPTH: usize = 128;

/// The body as text, if it is one JSON value that is not nested too deep; else what it is, as the
/// end of a sentence.
pub fn check(body: &[u8]) -> Result<&str, String> {
    if body.trim_ascii().is_empty() {
        return Err("it is empty".to_owned());
    }
    let text = std::str::from_utf8(body)
        .map_err(|error| format!("byte {} is not UTF-8", error.valid_up_to()))?;
    check_text(text)?;
    Ok(text)
}

/// The same of what is known to be UTF-8.
pub fn check_text(text: &str) -> Result<(), String> {
    if is_too_deep(text, 0) {
        return Err(format!("it is nested deeper than {MAX_DEPTH}"));
    }
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether JSON text is nested deeper than [`MAX_DEPTH`], standing at depth `above` itself.
/// Works on text that is not JSON, too: it only counts brackets outside of strings.
#[must_use]
pub fn is_too_deep(json: &str, above: usize) -> bool {
    // Without room for so many brackets there is nothing to look for.
    if json.len() < MAX_DEPTH.saturating_sub(above) {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (above, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return true;
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// What a JSON text is, in words.
#[must_use]
pub fn kind(json: &str) -> &'static str {
    match json.bytes().next() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ if json.contains(['.', 'e', 'E']) => "a number with a fraction or an exponent",
        _ => "a number",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_brackets_outside_of_strings() {
        let at = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(!is_too_deep(&at(MAX_DEPTH), 0));
        assert!(is_too_deep(&at(MAX_DEPTH + 1), 0));
        assert!(is_too_deep(&at(MAX_DEPTH), 1));
        let quoted = format!(r#"["\"{}"]"#, "[".repeat(500));
        assert!(!is_too_deep(&quoted, 0));
        assert!(!is_too_deep(&"[]".repeat(500), 0));
    }
}

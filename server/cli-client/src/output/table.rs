//! Tables: columns four blanks apart, as wide as their widest cell.

use std::borrow::Cow;

/// Stands where a cell is empty.
pub const EMPTY: &str = "n/a";

/// Columns side by side. The last one is not padded; an empty cell shows `n/a`.
pub fn columns(rows: &[Vec<String>]) -> String {
    columns_apart(rows, 4)
}

/// As [`columns`], with another gap.
pub fn columns_apart(rows: &[Vec<String>], gap: usize) -> String {
    let cell = |text: &String| -> String { if text.is_empty() { EMPTY.to_string() } else { text.clone() } };
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(cell).collect()).collect();
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count)
        .map(|c| rows.iter().filter_map(|r| r.get(c)).map(|t| t.chars().count()).max().unwrap_or(0))
        .collect();
    let lines: Vec<String> = rows
        .iter()
        .map(|row| {
            let mut line = String::new();
            for (c, text) in row.iter().enumerate() {
                line.push_str(text);
                if c + 1 < row.len() {
                    line.extend(std::iter::repeat_n(' ', widths[c] - text.chars().count() + gap));
                }
            }
            line
        })
        .collect();
    lines.join("\n")
}

/// A table with a heading row, underlined.
pub fn titled(titles: &[&str], rows: Vec<Vec<String>>) -> String {
    columns(&with_titles(titles, rows))
}

/// Puts a heading and its line before the rows.
pub fn with_titles(titles: &[&str], mut rows: Vec<Vec<String>>) -> Vec<Vec<String>> {
    let line = titles.iter().map(|t| "-".repeat(t.chars().count())).collect();
    rows.insert(0, line);
    rows.insert(0, titles.iter().map(|t| t.to_string()).collect());
    rows
}

/// The table of `Key` and `Value` that most answers become.
pub fn key_value(rows: Vec<(String, String)>) -> String {
    titled(&["Key", "Value"], rows.into_iter().map(|(k, v)| vec![k, v]).collect())
}

/// The same without its heading.
pub fn pairs(rows: &[(&str, String)]) -> String {
    columns(&rows.iter().map(|(k, v)| vec![k.to_string(), v.clone()]).collect::<Vec<_>>())
}

/// A section's title between equals signs, about as wide as `width`.
pub fn section(title: &str, width: usize) -> String {
    let signs = match width as isize - (title.len() as isize + 2) {
        rest if rest <= 0 => Cow::Borrowed("=="),
        rest => Cow::Owned("=".repeat((rest as usize).div_ceil(2))),
    };
    format!("{signs} {title} {signs}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![("a".to_string(), "1".to_string()), ("longer".to_string(), String::new())];
        assert_eq!(key_value(rows), "Key       Value\n---       -----\na         1\nlonger    n/a");
    }

    #[test]
    fn a_section_is_as_wide_as_what_is_below_it() {
        assert_eq!(section("Metadata", 24), "======= Metadata =======");
        assert_eq!(section("Version 1", 22), "====== Version 1 ======");
        assert_eq!(section("Secret Path", 13), "== Secret Path ==");
        assert_eq!(section("Metadata Path", 17), "= Metadata Path =");
    }
}

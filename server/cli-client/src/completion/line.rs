//! A command line as a shell gives it: split in words, quotes and backslashes understood.

/// The words of a line up to the cursor.
pub struct Line {
    /// Whole words, without the program's name.
    pub before: Vec<String>,
    /// The word at the cursor, as it is meant.
    pub word: String,
    /// The same as it is written.
    pub raw: String,
}

impl Line {
    /// `point` is the cursor's place in bytes, as a shell gives it; without it, the line's end.
    pub fn parse(line: &str, point: Option<&str>) -> Line {
        let point = point.and_then(|p| p.parse().ok()).filter(|p| line.is_char_boundary(*p));
        let line = &line[..point.unwrap_or(line.len())];
        let mut before = Vec::new();
        let mut word = Word::default();
        for c in line.chars() {
            if c.is_whitespace() && word.is_open() {
                if word.has_begun {
                    before.push(std::mem::take(&mut word).text);
                }
            } else {
                word.add(c);
            }
        }
        if !before.is_empty() {
            before.remove(0);
        }
        Line { before, word: word.text, raw: word.raw }
    }
}

/// A piece of a line as it is meant.
pub fn plain(raw: &str) -> String {
    let mut word = Word::default();
    raw.chars().for_each(|c| word.add(c));
    word.text
}

/// A word as a shell reads it back, whatever the names on the server hold.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if !(c.is_alphanumeric() || "-_./:=@%+,".contains(c)) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[derive(Default)]
struct Word {
    text: String,
    raw: String,
    has_begun: bool,
    quote: Option<char>,
    is_escaped: bool,
}

impl Word {
    /// Whether a blank ends the word here.
    fn is_open(&self) -> bool {
        self.quote.is_none() && !self.is_escaped
    }

    fn add(&mut self, c: char) {
        self.has_begun = true;
        self.raw.push(c);
        match (self.quote, c) {
            _ if self.is_escaped => {
                self.is_escaped = false;
                self.text.push(c);
            }
            (None | Some('"'), '\\') => self.is_escaped = true,
            (None, '\'' | '"') => self.quote = Some(c),
            (Some(quote), c) if c == quote => self.quote = None,
            _ => self.text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> (Vec<String>, String) {
        let line = Line::parse(line, None);
        (line.before, line.word)
    }

    #[test]
    fn the_last_word_is_the_one_at_the_cursor() {
        assert_eq!(words("holdfast kv  ge"), (vec!["kv".into()], "ge".into()));
        assert_eq!(words("holdfast kv "), (vec!["kv".into()], String::new()));
        assert_eq!(words("hold"), (vec![], "hold".into()));
        assert_eq!(
            words("holdfast kv get 'a b' \"c d\" e\\ f"),
            (vec!["kv".into(), "get".into(), "a b".into(), "c d".into()], "e f".into())
        );
        let line = Line::parse("holdfast kv get", Some("11"));
        assert_eq!((line.before, line.word), (vec![], "kv".into()));
    }

    #[test]
    fn what_is_escaped_is_read_back() {
        for text in ["a b", "$(id)", "`x`;\"'\\", "plain/a.b-c", "ü !"] {
            assert_eq!(plain(&escaped(text)), text);
            assert_eq!(words(&format!("holdfast {}", escaped(text))), (vec![], text.to_string()));
        }
    }
}

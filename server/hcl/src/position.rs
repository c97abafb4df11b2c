//! A place in a document.

use std::fmt;

/// Line and column, both counted from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The line, from 1.
    pub line: u32,
    /// The character in the line, from 1.
    pub column: u32,
}

impl Position {
    /// The first character of a document.
    pub const START: Position = Position { line: 1, column: 1 };

    /// The position that follows `text` when it stands at the start.
    pub(crate) fn after(text: &str) -> Position {
        let mut position = Position::START;
        for c in text.chars() {
            position.pass(c);
        }
        position
    }

    /// Moves over one character.
    pub(crate) fn pass(&mut self, c: char) {
        if c == '\n' {
            self.line += 1;
            self.column = 1;
        } else {
            self.column += 1;
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

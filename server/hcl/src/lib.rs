//! A reader of HCL 1 and its JSON form, for policies and server configuration.
//!
//! This is the language of Vault's and OpenBao's files: several attributes on
//! a line, quoted names, blocks with labels, heredocs, and `${` as plain text.
//! HCL 2 is another language; nothing here evaluates anything. Both forms
//! give one tree ([`Object`]) in which everything knows its line and column,
//! so that whoever reads the tree can say where a value is wrong.
//!
//! A document whose first character is `{` is JSON; all else is HCL.
//!
//! ```
//! let document = holdfast_hcl::parse(
//!     r#"path "secret/*" { capabilities = ["read", "list"] }"#,
//! )?;
//! let path = &document.blocks("path", 1)?[0];
//! assert_eq!(path.label(0), "secret/*");
//! let capabilities = path.body.attribute("capabilities").unwrap();
//! assert_eq!(capabilities.node.as_list().unwrap().len(), 2);
//! # Ok::<(), holdfast_hcl::Error>(())
//! ```
//!
//! Bounds: [`MAX_BYTES`] and [`MAX_DEPTH`]; past them the document is refused.

#![forbid(unsafe_code)]

mod ast;
mod blocks;
mod duration;
mod error;
mod format;
mod heredoc;
mod json;
mod lexer;
mod number;
mod parser;
mod position;
mod text;

pub use ast::{Item, Key, Node, Object, Syntax, Value};
pub use blocks::Block;
pub use duration::duration;
pub use error::{Error, ErrorKind};
pub use format::format;
pub use number::Number;
pub use position::Position;

/// The largest document that is read, in bytes.
pub const MAX_BYTES: usize = 4 * 1024 * 1024;

/// How deep objects and lists may be nested.
pub const MAX_DEPTH: usize = 64;

/// Reads a document in HCL 1 or JSON.
///
/// # Errors
/// The first place at which `source` is not a document, with what was
/// expected there.
pub fn parse(source: &str) -> Result<Object, Error> {
    if source.len() > MAX_BYTES {
        return Err(Error::new(Position::START, ErrorKind::TooLarge(source.len())));
    }
    let source = source.strip_prefix('\u{feff}').unwrap_or(source);
    if source.trim_start().starts_with('{') { json::parse(source) } else { parser::parse(source) }
}

/// Reads a document whose encoding has not been checked yet.
///
/// # Errors
/// As [`parse`]; [`ErrorKind::NotUtf8`] names the first byte that is no UTF-8.
pub fn parse_bytes(source: &[u8]) -> Result<Object, Error> {
    match std::str::from_utf8(source) {
        Ok(text) => parse(text),
        Err(error) => {
            let valid = &source[..error.valid_up_to()];
            let position = Position::after(&String::from_utf8_lossy(valid));
            Err(Error::new(position, ErrorKind::NotUtf8))
        }
    }
}

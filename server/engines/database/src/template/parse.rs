//! From text to nodes.

use super::{Wrong, wrong};

/// How deep templates may be nested.
const DEPTH: usize = 32;

pub enum Node {
    Text(String),
    Action(Pipeline),
    If { test: Pipeline, then: Vec<Node>, otherwise: Vec<Node>, sets_dot: bool },
}

/// Commands whose results are handed on as the next one's last argument.
pub type Pipeline = Vec<Command>;

/// A function with its arguments, or a value alone.
pub type Command = Vec<Term>;

pub enum Term {
    Dot,
    Field(String),
    Text(String),
    Number(i64),
    Bool(bool),
    Function(String),
    Group(Pipeline),
}

pub fn parse(text: &str) -> Result<Vec<Node>, Wrong> {
    let mut parser = Parser { pieces: pieces(text)?.into_iter(), depth: 0 };
    let (nodes, end) = parser.nodes()?;
    match end {
        Stop::NoMore => Ok(nodes),
        Stop::End => Err(wrong("unexpected {{end}}")),
        Stop::Else(_) => Err(wrong("unexpected {{else}}")),
    }
}

enum Piece {
    Text(String),
    Action(String),
}

/// Text and actions in turn, with blanks trimmed where actions say so.
fn pieces(mut text: &str) -> Result<Vec<Piece>, Wrong> {
    let mut out = Vec::new();
    while let Some((before, rest)) = text.split_once("{{") {
        let trims_before = rest.starts_with("- ");
        out.push(Piece::Text(if trims_before { before.trim_end() } else { before }.to_owned()));
        let (action, after) = rest.split_at(end_of_action(rest)?);
        let (mut action, mut after) = (action, &after[2..]);
        if let Some(inner) = action.strip_suffix(" -") {
            (action, after) = (inner, after.trim_start());
        }
        let action = if trims_before { &action[1..] } else { action }.trim();
        if !(action.starts_with("/*") && action.ends_with("*/")) {
            out.push(Piece::Action(action.to_owned()));
        }
        text = after;
    }
    out.push(Piece::Text(text.to_owned()));
    Ok(out)
}

/// Where the braces are that close an action: not those in a string.
fn end_of_action(text: &str) -> Result<usize, Wrong> {
    let (mut quote, mut escaped) = (None, false);
    for (at, c) in text.char_indices() {
        match quote {
            _ if escaped => escaped = false,
            Some('"') if c == '\\' => escaped = true,
            Some(q) if c == q => quote = None,
            Some(_) => {}
            None if matches!(c, '"' | '`') => quote = Some(c),
            None if text[at..].starts_with("}}") => return Ok(at),
            None => {}
        }
    }
    Err(wrong("unclosed action"))
}

enum Stop {
    NoMore,
    End,
    /// What stands behind `else`.
    Else(String),
}

struct Parser {
    pieces: std::vec::IntoIter<Piece>,
    depth: usize,
}

impl Parser {
    fn nodes(&mut self) -> Result<(Vec<Node>, Stop), Wrong> {
        let mut out = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let action = match piece {
                Piece::Text(text) => {
                    if !text.is_empty() {
                        out.push(Node::Text(text));
                    }
                    continue;
                }
                Piece::Action(action) => action,
            };
            let (word, rest) = action.split_once(char::is_whitespace).unwrap_or((&action, ""));
            match word {
                "end" if rest.is_empty() => return Ok((out, Stop::End)),
                "else" => return Ok((out, Stop::Else(rest.trim().to_owned()))),
                "if" => out.push(self.branch(rest, false)?),
                "with" => out.push(self.branch(rest, true)?),
                "range" | "define" | "template" | "block" | "break" | "continue" => {
                    return Err(wrong(format!("{{{{{word}}}}} is not supported in templates of user names")));
                }
                _ => out.push(Node::Action(pipeline(&action)?)),
            }
        }
        Ok((out, Stop::NoMore))
    }

    fn branch(&mut self, test: &str, sets_dot: bool) -> Result<Node, Wrong> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(wrong("it is nested too deeply"));
        }
        let test = pipeline(test)?;
        let (then, end) = self.nodes()?;
        let otherwise = match end {
            Stop::End => Vec::new(),
            Stop::NoMore => return Err(wrong("unexpected EOF")),
            Stop::Else(more) if more.is_empty() => match self.nodes()? {
                (nodes, Stop::End) => nodes,
                (_, Stop::Else(_)) => return Err(wrong("unexpected {{else}}")),
                (_, Stop::NoMore) => return Err(wrong("unexpected EOF")),
            },
            Stop::Else(more) => match more.split_once(char::is_whitespace) {
                Some(("if", test)) => vec![self.branch(test, false)?],
                Some(("with", test)) => vec![self.branch(test, true)?],
                _ => return Err(wrong("unexpected words in {{else}}")),
            },
        };
        self.depth -= 1;
        Ok(Node::If { test, then, otherwise, sets_dot })
    }
}

/// `a b | c`.
fn pipeline(text: &str) -> Result<Pipeline, Wrong> {
    let mut words = Words { rest: text, depth: 0 };
    let pipeline = words.pipeline()?;
    match words.rest.trim().is_empty() {
        true => Ok(pipeline),
        false => Err(wrong("unexpected \")\"")),
    }
}

struct Words<'t> {
    rest: &'t str,
    depth: usize,
}

impl Words<'_> {
    /// Up to the end, or to a closing parenthesis that is left to the caller.
    fn pipeline(&mut self) -> Result<Pipeline, Wrong> {
        let mut commands = vec![Command::new()];
        loop {
            self.rest = self.rest.trim_start();
            match self.rest.chars().next() {
                None | Some(')') => break,
                Some('|') => {
                    self.rest = &self.rest[1..];
                    commands.push(Command::new());
                }
                Some(_) => {
                    let term = self.term()?;
                    if let Some(last) = commands.last_mut() {
                        last.push(term);
                    }
                }
            }
        }
        match commands.iter().any(Vec::is_empty) {
            true => Err(wrong("missing value for command")),
            false => Ok(commands),
        }
    }

    fn term(&mut self) -> Result<Term, Wrong> {
        match self.rest.as_bytes().first() {
            Some(b'(') => self.group(),
            Some(b'"') => self.quoted(),
            Some(b'`') => {
                let (text, rest) = self.rest[1..].split_once('`').ok_or_else(|| wrong("unterminated raw string"))?;
                self.rest = rest;
                Ok(Term::Text(text.to_owned()))
            }
            _ => self.word(),
        }
    }

    fn group(&mut self) -> Result<Term, Wrong> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(wrong("it is nested too deeply"));
        }
        self.rest = &self.rest[1..];
        let inner = self.pipeline()?;
        self.rest = self.rest.strip_prefix(')').ok_or_else(|| wrong("unclosed left paren"))?;
        self.depth -= 1;
        Ok(Term::Group(inner))
    }

    fn quoted(&mut self) -> Result<Term, Wrong> {
        let (mut out, mut chars) = (String::new(), self.rest.char_indices().skip(1));
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = &self.rest[at + 1..];
                    return Ok(Term::Text(out));
                }
                '\\' => match chars.next().map(|(_, c)| c) {
                    Some('n') => out.push('\n'),
                    Some('t') => out.push('\t'),
                    Some(c @ ('"' | '\\' | '\'')) => out.push(c),
                    _ => return Err(wrong("bad escape in a string")),
                },
                c => out.push(c),
            }
        }
        Err(wrong("unterminated quoted string"))
    }

    fn word(&mut self) -> Result<Term, Wrong> {
        let ends = |c: char| c.is_whitespace() || matches!(c, '|' | '(' | ')' | '"' | '`');
        let (word, rest) = self.rest.split_at(self.rest.find(ends).unwrap_or(self.rest.len()));
        self.rest = rest;
        match word {
            "." => Ok(Term::Dot),
            "true" | "false" => Ok(Term::Bool(word == "true")),
            _ if word.starts_with('.') => Ok(Term::Field(word[1..].to_owned())),
            _ if word.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+')) => {
                word.parse().map(Term::Number).map_err(|_| wrong(format!("bad number syntax: {word:?}")))
            }
            _ if super::eval::is_function(word) => Ok(Term::Function(word.to_owned())),
            _ => Err(wrong(format!("function {word:?} not defined"))),
        }
    }
}

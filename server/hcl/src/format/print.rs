//! Writing a tree in its usual form.

use super::tree::{Body, Element, Entry, List, Part, Shape};

/// Writes a document.
pub(super) fn print(body: &Body<'_>) -> String {
    let mut printer = Printer::default();
    printer.body(body, 0);
    if printer.out.is_empty() {
        printer.out.push('\n');
    }
    printer.out
}

#[derive(Default)]
struct Printer {
    out: String,
}

impl Printer {
    /// Writes entries and comments, an empty line between groups.
    fn body(&mut self, body: &Body<'_>, depth: usize) {
        let mut index = 0;
        while index < body.parts.len() {
            if index > 0 {
                self.out.push('\n');
            }
            match &body.parts[index] {
                Part::Comments(comments) => {
                    self.comments(comments, depth);
                    index += 1;
                }
                Part::Entry(_) => {
                    let group = group(&body.parts[index..]);
                    self.group(&group, depth);
                    index += group.len();
                }
            }
        }
    }

    fn comments(&mut self, comments: &[&str], depth: usize) {
        for comment in comments {
            self.indent(depth);
            self.out.push_str(comment);
            self.out.push('\n');
        }
    }

    /// Writes attributes of one line each, aligned, or one entry of several.
    fn group(&mut self, group: &[&Entry<'_>], depth: usize) {
        let longest = |texts: &dyn Fn(&Entry<'_>) -> usize| group.iter().map(|e| texts(e)).max();
        let name_width = longest(&|entry| width(&entry.keys.join(" "))).unwrap_or(0);
        let value_width = longest(&|entry| one_line(&entry.shape).map_or(0, |v| width(&v)));
        for entry in group {
            self.comments(&entry.lead, depth);
            self.indent(depth);
            let name = entry.keys.join(" ");
            self.out.push_str(&name);
            if entry.assigned {
                self.blanks(name_width - width(&name));
                self.out.push_str(" =");
            }
            self.out.push(' ');
            let written = match one_line(&entry.shape) {
                Some(value) => {
                    self.out.push_str(&value);
                    width(&value)
                }
                None => {
                    self.shape(&entry.shape, depth);
                    value_width.unwrap_or(0)
                }
            };
            if !entry.trail.is_empty() {
                self.blanks(value_width.unwrap_or(0) - written);
                self.trail(&entry.trail);
            }
            self.out.push('\n');
        }
    }

    fn shape(&mut self, shape: &Shape<'_>, depth: usize) {
        if let Some(text) = one_line(shape) {
            self.out.push_str(&text);
            return;
        }
        match shape {
            Shape::Word(text) => self.out.push_str(text),
            Shape::Body(body) => {
                self.out.push_str("{\n");
                self.body(body, depth + 1);
                self.indent(depth);
                self.out.push('}');
            }
            Shape::List(list) => {
                self.out.push_str("[\n");
                self.elements(list, depth + 1);
                self.indent(depth);
                self.out.push(']');
            }
        }
    }

    fn elements(&mut self, list: &List<'_>, depth: usize) {
        let element_width = |e: &Element<'_>| one_line(&e.shape).map_or(0, |text| width(&text));
        let longest = list.elements.iter().map(element_width).max().unwrap_or(0);
        for (index, element) in list.elements.iter().enumerate() {
            if index > 0 && !element.lead.is_empty() {
                self.out.push('\n');
            }
            self.comments(&element.lead, depth);
            self.indent(depth);
            self.shape(&element.shape, depth);
            if is_heredoc(&element.shape) {
                // Its closing marker must stand alone on its line.
                self.out.push('\n');
                self.indent(depth);
            }
            self.out.push(',');
            if !element.trail.is_empty() {
                if one_line(&element.shape).is_some() {
                    self.blanks(longest - element_width(element));
                }
                self.trail(&element.trail);
            }
            self.out.push('\n');
        }
        for (index, comments) in list.tail.iter().enumerate() {
            if index > 0 || !list.elements.is_empty() {
                self.out.push('\n');
            }
            self.comments(comments, depth);
        }
    }

    fn trail(&mut self, comments: &[&str]) {
        for comment in comments {
            self.out.push(' ');
            self.out.push_str(comment);
        }
    }

    fn indent(&mut self, depth: usize) {
        self.blanks(2 * depth);
    }

    fn blanks(&mut self, count: usize) {
        self.out.extend(std::iter::repeat_n(' ', count));
    }
}

/// The entries at the front that are written under each other: attributes of
/// one line on neighbouring lines, of which only the first may have comments
/// above it. At least one entry.
fn group<'p, 'a>(parts: &'p [Part<'a>]) -> Vec<&'p Entry<'a>> {
    let mut group: Vec<&Entry<'a>> = Vec::new();
    for part in parts {
        let Part::Entry(entry) = part else { break };
        if let Some(last) = group.last() {
            let both = is_line(last) && is_line(entry);
            if !both || entry.line != last.line + 1 || !entry.lead.is_empty() {
                break;
            }
        }
        group.push(entry);
    }
    group
}

/// Whether an entry is an attribute of one line.
fn is_line(entry: &Entry<'_>) -> bool {
    let comments_of_lines = entry.trail.iter().any(|comment| comment.contains('\n'));
    entry.assigned && !comments_of_lines && one_line(&entry.shape).is_some()
}

/// A value as it is written on one line, if it fits there.
fn one_line(shape: &Shape<'_>) -> Option<String> {
    match shape {
        Shape::Word(text) => (!text.contains('\n')).then(|| (*text).to_owned()),
        Shape::Body(body) => body.parts.is_empty().then(|| "{}".to_owned()),
        Shape::List(list) => {
            let commented = |e: &Element<'_>| !e.lead.is_empty() || !e.trail.is_empty();
            if list.spread || !list.tail.is_empty() || list.elements.iter().any(commented) {
                return None;
            }
            let words: Option<Vec<&str>> = list.elements.iter().map(plain).collect();
            Some(format!("[{}]", words?.join(", ")))
        }
    }
}

/// A word of one line.
fn plain<'a>(element: &Element<'a>) -> Option<&'a str> {
    match element.shape {
        Shape::Word(text) if !text.contains('\n') => Some(text),
        _ => None,
    }
}

fn is_heredoc(shape: &Shape<'_>) -> bool {
    matches!(shape, Shape::Word(text) if text.starts_with("<<"))
}

fn width(text: &str) -> usize {
    text.chars().count()
}

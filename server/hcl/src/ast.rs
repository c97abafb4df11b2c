//! The tree of a document, the same for HCL and JSON.

use crate::{Number, Position};

/// The form in which a document was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// HCL 1.
    Hcl,
    /// JSON.
    Json,
}

/// A document, or what stands between `{` and `}`.
///
/// Names may be repeated; the order is that of the document.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// The attributes and blocks in their order.
    pub items: Vec<Item>,
    /// Where it begins.
    pub position: Position,
    /// The form in which it was written.
    pub syntax: Syntax,
}

/// `name = value`, `name { … }`, `name "label" { … }` or a member of a JSON
/// object.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The name and, in an HCL block, its labels. Never empty.
    pub keys: Vec<Key>,
    /// The value.
    pub node: Node,
}

/// A name or label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The name without quotes and escapes.
    pub text: String,
    /// Where it begins.
    pub position: Position,
}

/// A value with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Where it begins.
    pub position: Position,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`, in JSON only.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A string or heredoc.
    String(String),
    /// `[ … ]`.
    List(Vec<Node>),
    /// `{ … }`.
    Object(Object),
}

impl Object {
    /// The last attribute called `name`, which is the one that counts.
    pub fn attribute(&self, name: &str) -> Option<&Item> {
        self.items.iter().rev().find(|item| item.name() == name)
    }
}

impl Item {
    /// The name: the first key.
    pub fn name(&self) -> &str {
        &self.keys[0].text
    }

    /// Where the item begins.
    pub fn position(&self) -> Position {
        self.keys[0].position
    }
}

impl Node {
    /// The text, if it is a string.
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The boolean, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self.value {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// The number, if it is one.
    pub fn as_number(&self) -> Option<&Number> {
        match &self.value {
            Value::Number(number) => Some(number),
            _ => None,
        }
    }

    /// The elements, if it is a list.
    pub fn as_list(&self) -> Option<&[Node]> {
        match &self.value {
            Value::List(nodes) => Some(nodes),
            _ => None,
        }
    }

    /// The object, if it is one.
    pub fn as_object(&self) -> Option<&Object> {
        match &self.value {
            Value::Object(object) => Some(object),
            _ => None,
        }
    }

    /// What kind of value it is, for messages: `a string`, `a list`, ….
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::List(_) => "a list",
            Value::Object(_) => "an object",
        }
    }
}

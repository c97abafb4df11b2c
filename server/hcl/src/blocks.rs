//! Blocks by name, whichever way they were written.
//!
//! `listener "tcp" { … }` in HCL is, in JSON, any of
//! `{"listener": {"tcp": {…}}}`, `{"listener": [{"tcp": {…}}]}` and
//! `{"listener": {"tcp": [{…}, {…}]}}`.

use std::ops::RangeInclusive;

use crate::{Error, ErrorKind, Key, Node, Object, Position, Syntax, Value};

/// One block: its labels and what stands in it.
#[derive(Clone, Debug)]
pub struct Block<'a> {
    /// The labels, as many as were asked for.
    pub labels: Vec<&'a Key>,
    /// What stands between the braces.
    pub body: &'a Object,
    /// Where the block begins.
    pub position: Position,
}

impl Block<'_> {
    /// The text of a label.
    ///
    /// # Panics
    /// If fewer labels were asked for.
    pub fn label(&self, index: usize) -> &str {
        &self.labels[index].text
    }
}

impl Object {
    /// All blocks called `name` that have exactly `labels` labels, in order.
    ///
    /// # Errors
    /// Another number of labels, or a value that is no block.
    pub fn blocks(&self, name: &str, labels: usize) -> Result<Vec<Block<'_>>, Error> {
        self.blocks_of(name, labels..=labels)
    }

    /// The same where the last labels may be left out. In JSON, where a label looks like a key, the fewest are meant.
    ///
    /// # Errors
    /// As [`Object::blocks`].
    pub fn blocks_of(&self, name: &str, range: RangeInclusive<usize>) -> Result<Vec<Block<'_>>, Error> {
        let mut found = Vec::new();
        for item in self.items.iter().filter(|item| item.name() == name) {
            let given: Vec<&Key> = item.keys[1..].iter().collect();
            let labels = match self.syntax {
                Syntax::Json => *range.start(),
                _ => given.len().clamp(*range.start(), *range.end()),
            };
            let search = Search { name, labels, syntax: self.syntax, position: item.position() };
            if let Some(extra) = given.get(labels) {
                return Err(Error::new(
                    extra.position,
                    ErrorKind::LabelUnexpected { name: name.to_owned(), label: extra.text.clone() },
                ));
            }
            search.collect(given, &item.node, &mut found)?;
        }
        Ok(found)
    }
}

struct Search<'s> {
    name: &'s str,
    labels: usize,
    syntax: Syntax,
    position: Position,
}

impl Search<'_> {
    /// Follows a value down to the blocks in it; the depth of the document
    /// bounds the recursion.
    fn collect<'a>(&self, labels: Vec<&'a Key>, node: &'a Node, found: &mut Vec<Block<'a>>) -> Result<(), Error> {
        match &node.value {
            Value::Object(body) if labels.len() == self.labels => {
                found.push(Block { position: self.position, labels, body });
                Ok(())
            }
            Value::Object(body) if self.syntax == Syntax::Json => {
                for item in &body.items {
                    let mut labels = labels.clone();
                    labels.push(&item.keys[0]);
                    self.collect(labels, &item.node, found)?;
                }
                Ok(())
            }
            Value::List(nodes) if self.holds_blocks(nodes) => {
                for node in nodes {
                    self.collect(labels.clone(), node, found)?;
                }
                Ok(())
            }
            Value::Object(_) => Err(Error::new(self.position, ErrorKind::LabelMissing { name: self.name.to_owned() })),
            _ => {
                Err(Error::new(node.position, ErrorKind::NotABlock { name: self.name.to_owned(), found: node.kind() }))
            }
        }
    }

    fn holds_blocks(&self, nodes: &[Node]) -> bool {
        nodes.iter().all(|node| node.as_object().is_some()) && (self.syntax == Syntax::Json || self.labels == 0)
    }
}

#[cfg(test)]
mod tests {
    use crate::parse;

    fn listeners(source: &str) -> Vec<(String, usize)> {
        let document = parse(source).unwrap();
        let blocks = document.blocks("listener", 1).unwrap();
        let describe = |b: &super::Block| (b.label(0).to_owned(), b.body.items.len());
        blocks.iter().map(describe).collect()
    }

    #[test]
    fn every_form_of_a_labelled_block_is_found() {
        let expected = vec![("tcp".to_owned(), 1), ("tcp".to_owned(), 0)];
        for source in [
            "listener \"tcp\" { a = 1 }\nlistener \"tcp\" { }",
            "listener tcp { a = 1 } listener tcp { }",
            r#"{"listener": {"tcp": [{"a": 1}, {}]}}"#,
            r#"{"listener": [{"tcp": {"a": 1}}, {"tcp": {}}]}"#,
            r#"{"listener": {"tcp": {"a": 1}}, "listener": {"tcp": {}}}"#,
        ] {
            assert_eq!(listeners(source), expected, "{source}");
        }
    }

    #[test]
    fn a_last_label_may_be_left_out_where_that_is_allowed() {
        let seals = |source: &str| {
            let document = parse(source).unwrap();
            let blocks = document.blocks_of("seal", 1..=2).map_err(|e| e.kind)?;
            Ok::<_, super::ErrorKind>(blocks.iter().map(|b| b.labels.len()).collect::<Vec<_>>())
        };
        assert_eq!(seals("seal \"a\" {}\nseal \"a\" \"b\" {}"), Ok(vec![1, 2]));
        assert_eq!(seals(r#"{"seal": [{"a": {"name": "b"}}, {"c": {}}]}"#), Ok(vec![1, 1]));
        assert!(seals("seal {}").is_err() && seals("seal \"a\" \"b\" \"c\" {}").is_err());
    }

    #[test]
    fn labels_too_few_and_too_many_are_refused_with_their_place() {
        let refuse = |source| parse(source).unwrap().blocks("seal", 1).unwrap_err();
        assert_eq!(refuse("\n seal { }").to_string(), "at 2:2: \"seal\" needs a quoted name, as in `seal \"…\" { … }`");
        assert_eq!(
            refuse("seal \"a\" \"b\" { }").to_string(),
            "at 1:10: \"seal\" has the label \"b\", which has no meaning here"
        );
        assert_eq!(refuse("seal = 3").to_string(), "at 1:8: \"seal\" must be a block, not a number");
    }
}

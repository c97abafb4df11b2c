//! Known secrets in the forms in which they may lie about.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// What to look for, under a name for messages.
pub struct Needle {
    pub name: String,
    pub bytes: Vec<u8>,
}

/// A secret raw, in hex (both cases), and in base64 at each of its three alignments.
pub fn forms(name: &str, secret: &[u8]) -> Vec<Needle> {
    assert!(secret.len() >= 8, "{name} is too short to be looked for");
    let mut found = Vec::new();
    let mut add = |form: &str, bytes: Vec<u8>| found.push(Needle { name: format!("{name}, {form}"), bytes });
    add("raw", secret.to_vec());
    add("hex", hex::encode(secret).into_bytes());
    add("HEX", hex::encode_upper(secret).into_bytes());
    for shift in 0..3 {
        let shifted = [&[0; 2][..shift.min(2)], secret].concat();
        let text = STANDARD_NO_PAD.encode(shifted);
        // The first and last letters depend on the neighbours.
        let inner = &text[if shift > 0 { 4 } else { 0 }..text.len() - 2];
        if inner.len() >= 10 {
            add(&format!("base64+{shift}"), inner.as_bytes().to_vec());
        }
    }
    found
}

/// Looks for many needles at once: by their first four bytes.
pub struct Search {
    needles: Vec<Needle>,
    by_head: std::collections::HashMap<[u8; 4], Vec<usize>>,
    filter: Vec<bool>,
}

impl Search {
    pub fn new(needles: Vec<Needle>) -> Search {
        let mut by_head: std::collections::HashMap<[u8; 4], Vec<usize>> = Default::default();
        let mut filter = vec![false; 1 << 16];
        for (i, needle) in needles.iter().enumerate() {
            let head = [needle.bytes[0], needle.bytes[1], needle.bytes[2], needle.bytes[3]];
            by_head.entry(head).or_default().push(i);
            filter[usize::from(u16::from_le_bytes([head[0], head[1]]))] = true;
        }
        Search { needles, by_head, filter }
    }

    pub fn longest(&self) -> usize {
        self.needles.iter().map(|n| n.bytes.len()).max().unwrap_or(0)
    }

    /// The names of what is found, with the places.
    pub fn find<'s>(&'s self, hay: &[u8]) -> Vec<(&'s str, usize)> {
        let mut found = Vec::new();
        for at in 0..hay.len().saturating_sub(3) {
            if !self.filter[usize::from(u16::from_le_bytes([hay[at], hay[at + 1]]))] {
                continue;
            }
            let head = [hay[at], hay[at + 1], hay[at + 2], hay[at + 3]];
            for i in self.by_head.get(&head).into_iter().flatten() {
                if hay[at..].starts_with(&self.needles[*i].bytes) {
                    found.push((self.needles[*i].name.as_str(), at));
                }
            }
        }
        found
    }
}

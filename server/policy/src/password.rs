//! Password policies: how long a made password is and what characters it has
//! (`sys/policies/password`).
//!
//! ```
//! use holdfast_policy::PasswordPolicy;
//! let text = r#"
//!     length = 20
//!     rule "charset" { charset = "abcdefghij" min-chars = 1 }
//!     rule "charset" { charset = "0123456789" min-chars = 2 }
//! "#;
//! let policy = PasswordPolicy::parse(text).unwrap();
//! assert_eq!(policy.length(), 20);
//! ```

use holdfast_hcl::{Error as HclError, Node, Object};

/// Shorter passwords are refused.
const MIN_LENGTH: i64 = 4;
/// Longer passwords are refused.
const MAX_LENGTH: i64 = 100;

/// A password policy that has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PasswordPolicy {
    length: usize,
    rules: Vec<Charset>,
    /// The characters of all rules, each once.
    all: Vec<char>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Charset {
    /// Each once.
    characters: Vec<char>,
    min: usize,
}

/// Why a password policy was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PasswordPolicyError {
    /// Not HCL or JSON.
    #[error(transparent)]
    Syntax(#[from] HclError),
    /// A value of another type.
    #[error("at {0}: {1} must be {2}")]
    Type(holdfast_hcl::Position, &'static str, &'static str),
    /// A rule that there is not.
    #[error("at {0}: unrecognized rule type {1:?}; there is \"charset\"")]
    Rule(holdfast_hcl::Position, String),
    /// A character that cannot be typed.
    #[error("at {0}: the charset holds a character that is not printable")]
    Unprintable(holdfast_hcl::Position),
    /// No length, or none above 0.
    #[error("length must be > 0")]
    NoLength,
    /// Nothing to make passwords of.
    #[error("no charset specified")]
    NoCharset,
    /// The rules ask for more characters than there are.
    #[error("specified rules require at least {0} characters but {1} is specified")]
    TooShort(i64, i64),
    /// Outside the limits.
    #[error("passwords must be between {MIN_LENGTH} and {MAX_LENGTH} characters")]
    Length,
}

impl PasswordPolicy {
    /// Reads a policy's text, HCL or JSON. Keys that it does not know mean
    /// nothing, as in the reference.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(text: &str) -> Result<PasswordPolicy, PasswordPolicyError> {
        let document: Object = holdfast_hcl::parse(text)?;
        let length = match document.attribute("length") {
            Some(item) => integer("length", &item.node)?,
            None => 0,
        };
        if let Some(other) = foreign_rule(&document) {
            return Err(other);
        }
        let mut rules = Vec::new();
        let mut least: i64 = 0;
        for block in document.blocks("rule", 1)? {
            let rule = Charset::parse(block.body)?;
            least = least.saturating_add(rule.min as i64);
            rules.push(rule);
        }
        let mut all: Vec<char> = rules.iter().flat_map(|r| r.characters.iter().copied()).collect();
        all.sort_unstable();
        all.dedup();
        match () {
            () if length <= 0 => return Err(PasswordPolicyError::NoLength),
            () if all.is_empty() => return Err(PasswordPolicyError::NoCharset),
            () if least > length => return Err(PasswordPolicyError::TooShort(least, length)),
            () if !(MIN_LENGTH..=MAX_LENGTH).contains(&length) => return Err(PasswordPolicyError::Length),
            () => {}
        }
        Ok(PasswordPolicy { length: usize::try_from(length).unwrap_or_default(), rules, all })
    }

    /// How many characters a password has.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Makes a password. `below(n)` gives a random number below `n`, each
    /// equally likely, or fails.
    ///
    /// Each rule's least number of characters is drawn from its own
    /// characters and the rest from all of them; then they are shuffled. So
    /// it ends after `length` draws, however tight the rules are.
    ///
    /// # Errors
    /// What `below` fails with.
    pub fn generate<E>(&self, mut below: impl FnMut(usize) -> Result<usize, E>) -> Result<String, E> {
        let mut drawn: Vec<char> = Vec::with_capacity(self.length);
        for rule in &self.rules {
            for _ in 0..rule.min {
                drawn.push(rule.characters[below(rule.characters.len())?]);
            }
        }
        while drawn.len() < self.length {
            drawn.push(self.all[below(self.all.len())?]);
        }
        for last in (1..drawn.len()).rev() {
            drawn.swap(last, below(last + 1)?);
        }
        // Large enough from the start: growing would leave parts of the password behind in memory.
        let mut password = String::with_capacity(4 * self.length);
        for c in &mut drawn {
            password.push(std::mem::take(c));
        }
        Ok(password)
    }
}

impl Charset {
    fn parse(body: &Object) -> Result<Charset, PasswordPolicyError> {
        let mut characters: Vec<char> = Vec::new();
        if let Some(item) = body.attribute("charset") {
            let position = item.node.position;
            let text = item.node.as_str().ok_or(PasswordPolicyError::Type(position, "charset", "a string"))?;
            if text.chars().any(char::is_control) {
                return Err(PasswordPolicyError::Unprintable(position));
            }
            characters.extend(text.chars());
            characters.sort_unstable();
            characters.dedup();
        }
        if characters.is_empty() {
            return Err(PasswordPolicyError::NoCharset);
        }
        let min = match body.attribute("min-chars") {
            Some(item) => integer("min-chars", &item.node)?,
            None => 0,
        };
        Ok(Charset { characters, min: usize::try_from(min).unwrap_or(0) })
    }
}

fn integer(name: &'static str, node: &Node) -> Result<i64, PasswordPolicyError> {
    let number = node.as_number().and_then(holdfast_hcl::Number::as_i64);
    number.ok_or(PasswordPolicyError::Type(node.position, name, "an integer"))
}

/// A rule of a type that there is not.
fn foreign_rule(document: &Object) -> Option<PasswordPolicyError> {
    let blocks = document.blocks("rule", 1).ok()?;
    let other = blocks.iter().find(|b| b.label(0) != "charset")?;
    Some(PasswordPolicyError::Rule(other.position, other.label(0).to_owned()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::{PasswordPolicy, PasswordPolicyError};

    fn counted(seed: u64) -> impl FnMut(usize) -> Result<usize, std::convert::Infallible> {
        let mut state = seed.wrapping_mul(2).wrapping_add(1);
        move |n| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            Ok((state >> 33) as usize % n)
        }
    }

    proptest! {
        #[test]
        fn a_password_has_its_length_and_enough_of_each_charset(
            extra in 0usize..40, letters in 1usize..20, digits in 0usize..20, seed: u64,
        ) {
            let length = (letters + digits + extra).max(4);
            let text = format!(
                "length = {length}\nrule \"charset\" {{ charset = \"abcä\" min-chars = {letters} }}\n\
                 rule \"charset\" {{ charset = \"012\" min-chars = {digits} }}"
            );
            let password = PasswordPolicy::parse(&text).unwrap().generate(counted(seed)).unwrap();
            prop_assert_eq!(password.chars().count(), length);
            prop_assert!(password.chars().filter(|c| "abcä".contains(*c)).count() >= letters);
            prop_assert!(password.chars().filter(|c| "012".contains(*c)).count() >= digits);
            prop_assert!(password.chars().all(|c| "abcä012".contains(c)));
        }
    }

    #[test]
    fn a_letter_that_is_named_twice_is_no_more_likely() {
        let policy = PasswordPolicy::parse("length = 100\nrule \"charset\" { charset = \"aaaaaaaab\" }").unwrap();
        let mut seen: HashMap<char, usize> = HashMap::new();
        for seed in 0..50 {
            for c in policy.generate(counted(seed)).unwrap().chars() {
                *seen.entry(c).or_default() += 1;
            }
        }
        assert!(seen[&'a'].abs_diff(seen[&'b']) < 500, "{seen:?}");
    }

    #[test]
    fn both_forms_are_read() {
        let json = r#"{"length": 12, "rule": [{"charset": {"charset": "abc", "min-chars": 1}}]}"#;
        assert_eq!(PasswordPolicy::parse(json).unwrap().length(), 12);
        assert!(PasswordPolicy::parse("length = 12\ncolour = \"red\"\nrule \"charset\" { charset = \"ab\" }").is_ok());
    }

    #[test]
    fn what_is_wrong_is_said() {
        let refused = |text: &str| PasswordPolicy::parse(text).unwrap_err();
        let rule = "rule \"charset\" { charset = \"abc\" min-chars = 3 }";
        assert_eq!(refused("length = 20"), PasswordPolicyError::NoCharset);
        assert_eq!(refused(rule), PasswordPolicyError::NoLength);
        assert_eq!(refused(&format!("length = 2\n{rule}")), PasswordPolicyError::TooShort(3, 2));
        assert_eq!(refused(&format!("length = 3\n{rule}")), PasswordPolicyError::Length);
        assert_eq!(refused(&format!("length = 101\n{rule}")), PasswordPolicyError::Length);
        assert!(matches!(refused(&format!("length = \"20\"\n{rule}")), PasswordPolicyError::Type(..)));
        assert!(matches!(refused("length = 20\nrule \"dice\" { charset = \"a\" }"), PasswordPolicyError::Rule(..)));
        assert!(matches!(
            refused("length = 20\nrule \"charset\" { charset = \"a\\n\" }"),
            PasswordPolicyError::Unprintable(_)
        ));
        assert!(matches!(refused("5"), PasswordPolicyError::Syntax(_)));
    }
}

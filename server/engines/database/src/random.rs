//! Random names and passwords.

use holdfast_sdk::{Result, uuid};

const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const PASSWORD: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-";
/// Characters of a password without a policy.
const LENGTH: usize = 20;

/// `n` characters of a set of at most 256.
fn of(set: &[u8], n: usize) -> Result<String> {
    let mut out = String::with_capacity(n);
    // Higher bytes would favour some characters.
    let end = 256 - 256 % set.len();
    while out.len() < n {
        let block: [u8; 64] = uuid::bytes()?;
        let fair = block.iter().map(|b| usize::from(*b)).filter(|b| *b < end);
        out.extend(fair.take(n - out.len()).map(|b| char::from(set[b % set.len()])));
    }
    Ok(out)
}

/// `n` letters and digits.
pub fn alphanumeric(n: usize) -> Result<String> {
    of(LETTERS, n)
}

/// A password with at least one of each: large and small letters, digits, a dash.
pub fn password() -> Result<String> {
    loop {
        let made = of(PASSWORD, LENGTH)?;
        let has = |is: fn(&char) -> bool| made.chars().any(|c| is(&c));
        if has(char::is_ascii_uppercase)
            && has(char::is_ascii_lowercase)
            && has(char::is_ascii_digit)
            && has(|c| *c == '-')
        {
            return Ok(made);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_have_all_kinds_of_characters_and_differ() {
        let some: std::collections::BTreeSet<String> = (0..200).map(|_| password().unwrap()).collect();
        assert_eq!(some.len(), 200);
        assert!(some.iter().all(|p| p.len() == LENGTH && p.contains('-')));
        assert_eq!(alphanumeric(130).unwrap().len(), 130);
        assert_eq!(alphanumeric(0).unwrap(), "");
    }
}

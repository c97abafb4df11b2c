//! Numbers, kept as they were written.

/// A number as written: integers in base 10, 16 (`0x1f`) or 8 (`017`), or a
/// decimal with fraction or exponent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Number {
    text: String,
}

impl Number {
    /// Takes text that the lexer has found to be a number.
    pub(crate) fn new(text: &str) -> Option<Number> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        let number = Number { text: text.to_owned() };
        let well_formed = match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
            Some(hex) => !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit()),
            None if is_octal_like(digits) => digits.bytes().all(|b| (b'0'..=b'7').contains(&b)),
            None => is_decimal(digits),
        };
        well_formed.then_some(number)
    }

    /// The number as it stands in the document.
    pub fn as_text(&self) -> &str {
        &self.text
    }

    /// The number as an integer, unless it has a fraction, an exponent or
    /// more than 64 bits.
    pub fn as_i64(&self) -> Option<i64> {
        let (negative, digits) = match self.text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, self.text.as_str()),
        };
        let magnitude = if let Some(hex) = digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
            i128::from(u64::from_str_radix(hex, 16).ok()?)
        } else if is_octal_like(digits) {
            i128::from(u64::from_str_radix(digits, 8).ok()?)
        } else {
            i128::from(digits.parse::<u64>().ok()?)
        };
        i64::try_from(if negative { -magnitude } else { magnitude }).ok()
    }

    /// The number as a float.
    pub fn as_f64(&self) -> f64 {
        match self.as_i64() {
            // A float is asked for: what does not fit is rounded.
            #[allow(clippy::cast_precision_loss)]
            Some(integer) => integer as f64,
            None => self.text.parse().unwrap_or(f64::NAN),
        }
    }
}

/// `0` followed by digits only.
fn is_octal_like(digits: &str) -> bool {
    digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit())
}

fn is_decimal(digits: &str) -> bool {
    let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (digits, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let all_digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    all_digits(whole)
        && fraction.is_none_or(all_digits)
        && exponent.is_none_or(|e| all_digits(e.strip_prefix(['+', '-']).unwrap_or(e)))
}

#[cfg(test)]
mod tests {
    use super::Number;

    fn integer(text: &str) -> Option<i64> {
        Number::new(text).unwrap().as_i64()
    }

    #[test]
    fn integers_are_read_in_three_bases() {
        assert_eq!(integer("0"), Some(0));
        assert_eq!(integer("-7"), Some(-7));
        assert_eq!(integer("0x1F"), Some(31));
        assert_eq!(integer("010"), Some(8));
        assert_eq!(integer("9223372036854775807"), Some(i64::MAX));
        assert_eq!(integer("-9223372036854775808"), Some(i64::MIN));
        assert_eq!(integer("9223372036854775808"), None);
    }

    #[test]
    fn a_fraction_or_exponent_is_no_integer() {
        assert_eq!(integer("1.5"), None);
        assert_eq!(Number::new("1.5").unwrap().as_f64(), 1.5);
        assert_eq!(Number::new("-2e3").unwrap().as_f64(), -2000.0);
    }

    #[test]
    fn what_only_looks_like_a_number_is_refused() {
        for text in ["", "-", "1.", ".5", "1e", "0x", "08", "1_000", "10m", "1.2.3"] {
            assert_eq!(Number::new(text), None, "{text}");
        }
    }
}

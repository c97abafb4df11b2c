//! Sizes in bytes.

/// Reads a size: bytes (`1048576`), or a number with a unit, of 1000
/// (`kb mb gb`) or of 1024 (`kib mib gib`), in either case.
pub fn size(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor: u64 = match unit.trim_start() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn bytes_and_units_are_read() {
        assert_eq!(size("33554432"), Some(33_554_432));
        assert_eq!(size("32MiB"), Some(33_554_432));
        assert_eq!(size("32 mb"), Some(32_000_000));
        assert_eq!(size("1gib"), Some(1 << 30));
        for text in ["", "m", "-1", "1.5mb", "1tb", "99999999999999gib"] {
            assert_eq!(size(text), None, "{text}");
        }
    }
}

//! Networks that a token or a login is bound to (`token_bound_cidrs`).

use std::net::IpAddr;
use std::str::FromStr;

/// An address, or a network in CIDR form. Written without a mask where it is one address; the bits
/// behind a mask stay as they were given.
///
/// ```
/// use holdfast_sdk::AddressBlock;
/// let block: AddressBlock = "10.1.2.3/8".parse().unwrap();
/// assert!(block.holds("10.200.0.1".parse().unwrap()));
/// assert!(block.holds("::ffff:10.0.0.1".parse().unwrap()));
/// assert_eq!(block.to_string(), "10.1.2.3/8");
/// assert_eq!("::1/128".parse::<AddressBlock>().unwrap().to_string(), "::1");
/// assert!("10.0.0.0/33".parse::<AddressBlock>().is_err());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressBlock {
    address: IpAddr,
    prefix_bits: u8,
}

/// The text is no address and no network.
#[derive(Debug, thiserror::Error)]
#[error("error parsing address {0:?}: it is no IPv4 or IPv6 address and no CIDR block")]
pub struct NoAddressBlock(String);

fn width(address: &IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl AddressBlock {
    /// Whether an address is in the block. An IPv4 address counts as such in its IPv6 form too.
    pub fn holds(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                let differs = u32::from(ours) ^ u32::from(theirs);
                differs.checked_shr(32 - u32::from(self.prefix_bits)).unwrap_or(0) == 0
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                let differs = u128::from(ours) ^ u128::from(theirs);
                differs.checked_shr(128 - u32::from(self.prefix_bits)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }

    /// Whether every address of another block is in this one.
    pub fn contains(&self, other: &AddressBlock) -> bool {
        self.prefix_bits <= other.prefix_bits && self.holds(other.address)
    }

    /// All blocks of a list.
    ///
    /// # Errors
    /// Names the first text that is no block.
    pub fn parse_all(texts: &[String]) -> Result<Vec<AddressBlock>, NoAddressBlock> {
        texts.iter().map(|t| t.trim()).filter(|t| !t.is_empty()).map(str::parse).collect()
    }
}

impl FromStr for AddressBlock {
    type Err = NoAddressBlock;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || NoAddressBlock(text.to_owned());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| refuse())?;
        let prefix_bits = match bits {
            None => width(&address),
            Some(b) if b.is_empty() || !b.bytes().all(|c| c.is_ascii_digit()) => return Err(refuse()),
            Some(b) => b.parse().ok().filter(|n| *n <= width(&address)).ok_or_else(refuse)?,
        };
        Ok(AddressBlock { address, prefix_bits })
    }
}

impl std::fmt::Display for AddressBlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.prefix_bits == width(&self.address) {
            write!(f, "{}", self.address)
        } else {
            write!(f, "{}/{}", self.address, self.prefix_bits)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(block: &str, address: &str) -> bool {
        block.parse::<AddressBlock>().unwrap().holds(address.parse().unwrap())
    }

    #[test]
    fn a_block_holds_what_its_mask_says() {
        assert!(holds("0.0.0.0/0", "255.1.2.3") && !holds("0.0.0.0/0", "::1"));
        assert!(holds("::/0", "2001:db8::1") && !holds("::/0", "10.0.0.1"));
        assert!(holds("10.0.0.0/31", "10.0.0.1") && !holds("10.0.0.0/31", "10.0.0.2"));
        assert!(holds("127.0.0.1", "127.0.0.1") && !holds("127.0.0.1", "127.0.0.2"));
        assert!(holds("2001:db8::/32", "2001:db8:ffff::1") && !holds("2001:db8::/32", "2001:db9::1"));
    }

    #[test]
    fn a_block_contains_those_that_lie_in_it() {
        let contains = |wide: &str, narrow: &str| {
            wide.parse::<AddressBlock>().unwrap().contains(&narrow.parse::<AddressBlock>().unwrap())
        };
        assert!(contains("10.0.0.0/8", "10.9.0.0/16") && contains("10.0.0.0/8", "10.1.2.3/8"));
        assert!(!contains("10.0.0.0/8", "10.0.0.0/7") && !contains("10.0.0.0/8", "11.0.0.0/16"));
        assert!(contains("::/0", "2001:db8::1") && !contains("::/0", "10.0.0.1") && !contains("0.0.0.0/0", "::1"));
    }

    #[test]
    fn the_text_is_the_same_when_it_is_written_again() {
        for text in ["127.0.0.1", "10.0.0.7/8", "::1", "2001:db8::/32", "0.0.0.0/0"] {
            let once: AddressBlock = text.parse().unwrap();
            assert_eq!(once.to_string(), text);
        }
        assert_eq!("1.2.3.4/32".parse::<AddressBlock>().unwrap().to_string(), "1.2.3.4");
        for text in ["", "300.1.2.3", "1.2.3.4/", "1.2.3.4/-1", "1.2.3.4/+8", "1.2.3.4/33", "::/129", "x", "1.2.3"] {
            assert!(text.parse::<AddressBlock>().is_err(), "{text}");
        }
    }
}

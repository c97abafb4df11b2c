//! Shamir's secret sharing over GF(256), with shares in the form that Vault shows: the secret's
//! length, then one byte that is the share's place.

use blahaj::{Share, Sharks};
use holdfast_hsm::memory::{Key, Secret};
use zeroize::Zeroize;

use crate::SealError;

/// Shares at most.
pub const MAX_SHARES: u8 = 255;

/// Split `secret` into `shares`, of which `threshold` open it again. With one share it is the secret itself.
pub fn split(secret: &Key, shares: u8, threshold: u8) -> Result<Vec<Secret<Vec<u8>>>, SealError> {
    assert!(threshold >= 1 && threshold <= shares, "the caller checks what was asked");
    if shares == 1 {
        return Ok(vec![Secret::new(secret.expose().to_vec())]);
    }
    let dealer = Sharks(threshold).dealer(secret.expose());
    let out = dealer.take(shares as usize).map(|s| {
        let mut bytes = Vec::from(&s);
        bytes.rotate_left(1);
        Secret::new(bytes)
    });
    Ok(out.collect())
}

/// Join shares. A wrong set gives a wrong secret, which what it is to open will not accept.
pub fn join(shares: &[Secret<Vec<u8>>], threshold: u8) -> Result<Key, SealError> {
    if let [only] = shares
        && threshold == 1
    {
        let mut bytes = only.expose().clone();
        return Ok(Key::from_slice(&mut bytes)?);
    }
    let mut points = Vec::with_capacity(shares.len());
    for share in shares {
        let mut bytes = share.expose().clone();
        bytes.rotate_right(1);
        let point = Share::try_from(bytes.as_slice()).map_err(|_| SealError::WrongShares)?;
        bytes.zeroize();
        points.push(point);
    }
    let mut secret = Sharks(threshold).recover(&points).map_err(|_| SealError::WrongShares)?;
    Ok(Key::from_slice(&mut secret)?)
}

/// The length of a share of a secret of `secret_bytes`.
pub fn share_bytes(secret_bytes: usize, shares: u8) -> usize {
    if shares == 1 { secret_bytes } else { secret_bytes + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_hsm::memory::allow_unlocked;
    use proptest::prelude::*;

    fn copy(s: &[Secret<Vec<u8>>], which: &[usize]) -> Vec<Secret<Vec<u8>>> {
        which.iter().map(|&i| Secret::new(s[i].expose().clone())).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn any_threshold_of_the_shares_opens_and_one_less_does_not(n in 2u8..12, k in 2u8..12, seed in any::<u64>()) {
            prop_assume!(k <= n);
            allow_unlocked();
            let secret = Key::random(32).unwrap();
            let shares = split(&secret, n, k).unwrap();
            prop_assert!(shares.iter().all(|s| s.expose().len() == 33));
            let mut order: Vec<usize> = (0..n as usize).collect();
            order.sort_by_key(|i| seed.rotate_left(*i as u32 * 7) ^ (*i as u64 * 0x9e37_79b9));
            prop_assert!(join(&copy(&shares, &order[..k as usize]), k).unwrap().ct_eq(secret.expose()));
            if k > 2 {
                let too_few = join(&copy(&shares, &order[..k as usize - 1]), k - 1);
                prop_assert!(!too_few.is_ok_and(|s| s.ct_eq(secret.expose())));
            }
        }
    }

    #[test]
    fn one_share_is_the_secret() {
        allow_unlocked();
        let secret = Key::random(32).unwrap();
        let shares = split(&secret, 1, 1).unwrap();
        assert_eq!(shares[0].expose().as_slice(), secret.expose());
        assert!(join(&shares, 1).unwrap().ct_eq(secret.expose()));
    }

    #[test]
    fn sharing_the_same_secret_again_gives_other_shares() {
        allow_unlocked();
        let secret = Key::random(32).unwrap();
        let (a, b) = (split(&secret, 3, 2).unwrap(), split(&secret, 3, 2).unwrap());
        assert_ne!(a[0].expose(), b[0].expose());
    }
}

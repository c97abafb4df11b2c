use super::*;
use crate::namespaces;
use crate::testing::unsealed;

/// Whether a term that sealed so many entries got a successor.
async fn has_rotated(rotation: Rotation, sealed_entries: u64) -> bool {
    let (core, open) = unsealed().await;
    let save = |tx: &mut Tx| tx.within(SYSTEM, |tx| record::put(tx, Place::Ordered(SETTINGS, ROTATION), &rotation));
    core.transact(&open, save).await.unwrap();
    let barrier = open.barrier.load_full();
    for n in 0..sealed_entries {
        barrier.seal(b"place", &n.to_be_bytes()).unwrap();
    }
    // The server looks by itself too, and may hold the count for a moment.
    for _ in 0..20 {
        rotate_when_due(&core, &open).await.unwrap();
        if open.barrier.load().keyring().active().0 > 1 {
            return true;
        }
    }
    false
}

#[tokio::test]
async fn a_term_that_sealed_enough_gets_a_successor() {
    let rotation = |max_operations, enabled| Rotation { max_operations, interval_secs: 0, enabled };
    assert!(has_rotated(rotation(5000, true), 6000).await);
    assert!(!has_rotated(rotation(5000, true), 3000).await);
    assert!(!has_rotated(rotation(5000, false), 6000).await);
}

#[tokio::test]
async fn what_was_counted_is_stored_and_shown_once() {
    let (core, open) = unsealed().await;
    let barrier = open.barrier.load_full();
    for n in 0..3000u64 {
        barrier.seal(b"place", &n.to_be_bytes()).unwrap();
    }
    let count = || Ring::of_root(&barrier).sealed(&mut core.reader(&open)).unwrap();
    let before = count();
    // The server counts by itself meanwhile: each entry is counted by one of them.
    tokio::join!(async { rotate_when_due(&core, &open).await.unwrap() }, async {
        rotate_when_due(&core, &open).await.unwrap();
    });
    let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while count() < before && std::time::Instant::now() < until {
        tokio::task::yield_now().await;
    }
    assert!(barrier.uncounted() < 10, "the count was not stored");
    // Storing it sealed an entry itself.
    assert!((before..before + 5).contains(&count()), "{before} and {}", count());
}

#[tokio::test]
async fn a_namespace_with_a_keyring_of_its_own_has_terms_of_its_own() {
    let (core, open) = unsealed().await;
    let mut shares = Vec::new();
    let make = |tx: &mut Tx| {
        let (made, given) = namespaces::create(tx, "s/".into(), Vec::new(), Some((1, 1)), clock::now())?;
        shares = given;
        Ok(made)
    };
    let namespace = core.transact(&open, make).await.unwrap();
    seal::unseal(&core, &open, &namespace, &hex::encode(shares[0].expose())).await.unwrap();
    let rotation = Rotation { max_operations: 5000, interval_secs: 0, enabled: true };
    let here = SYSTEM.of(namespace.uuid);
    let save = |tx: &mut Tx| tx.within(here, |tx| record::put(tx, Place::Ordered(SETTINGS, ROTATION), &rotation));
    core.transact(&open, save).await.unwrap();
    let barrier = open.barrier.load_full();
    let number = namespace.seal.as_ref().unwrap().number;
    let term = || barrier.ring(number).unwrap().keyring.active().0;
    let place = [&here.prefix()[..], b"place"].concat();
    for n in 0..3000u64 {
        barrier.seal(&place, &n.to_be_bytes()).unwrap();
    }
    rotate_when_due(&core, &open).await.unwrap();
    assert_eq!(term(), 1);
    for n in 0..3000u64 {
        barrier.seal(&place, &n.to_be_bytes()).unwrap();
    }
    for _ in 0..20 {
        rotate_when_due(&core, &open).await.unwrap();
    }
    assert!(term() > 1);
    assert_eq!(barrier.keyring().active().0, 1, "the root's is another");
}

#[tokio::test]
async fn a_term_that_is_made_by_itself_is_told_to_the_audit_log_with_its_cause() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.log");
    let (core, open) = unsealed().await;
    core.declare_audit(vec![crate::audit::DeviceConfig::file("file/", &file)]).await;
    let rotation = Rotation { max_operations: 5000, interval_secs: 0, enabled: true };
    let save = |tx: &mut Tx| tx.within(SYSTEM, |tx| record::put(tx, Place::Ordered(SETTINGS, ROTATION), &rotation));
    core.transact(&open, save).await.unwrap();
    let barrier = open.barrier.load_full();
    for n in 0..6000_u64 {
        barrier.seal(b"place", &n.to_be_bytes()).unwrap();
    }
    for _ in 0..20 {
        rotate_when_due(&core, &open).await.unwrap();
    }
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let own: Vec<&Value> = lines.iter().filter(|l| l["actor"] == "system").collect();
    assert_eq!(own.len(), 2, "{text}");
    assert_eq!((&own[0]["request"]["path"], &own[0]["request"]["data"]["term"]), (&"sys/rotate".into(), &2.into()));
    assert_eq!(own[0]["cause"], "the term has sealed as much as sys/rotate/config allows");
}

#[tokio::test]
async fn a_term_that_is_old_enough_gets_a_successor() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.log");
    let (core, open) = unsealed().await;
    core.declare_audit(vec![crate::audit::DeviceConfig::file("file/", &file)]).await;
    let configure = |interval_secs| {
        let rotation = Rotation { max_operations: i64::MAX, interval_secs, enabled: true };
        core.transact(&open, move |tx| {
            tx.within(SYSTEM, |tx| record::put(tx, Place::Ordered(SETTINGS, ROTATION), &rotation))
        })
    };
    let term = || open.barrier.load().keyring().active().0;
    configure(24 * 3600).await.unwrap();
    rotate_when_due(&core, &open).await.unwrap();
    assert_eq!(term(), 1, "it is not a day old");
    configure(1).await.unwrap();
    let causes = || -> Vec<Value> {
        let text = std::fs::read_to_string(&file).unwrap();
        let lines = text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
        lines.filter(|l| l["actor"] == "system").map(|l| l["cause"].clone()).collect()
    };
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while causes().is_empty() && std::time::Instant::now() < until {
        rotate_when_due(&core, &open).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    // The server looks by itself too, and may have been the first.
    assert!(term() > 1);
    assert!(causes().len() >= 2);
    assert!(causes().iter().all(|cause| cause == "the term is as old as sys/rotate/config allows"), "{:?}", causes());
}

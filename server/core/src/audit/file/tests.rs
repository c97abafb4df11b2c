use std::os::fd::AsRawFd;

use holdfast_chain::{PublicKeys, Signer};

use super::super::log_file::WRITE_WITHIN;
use super::*;

fn told(appended: Appended) -> oneshot::Receiver<bool> {
    match appended {
        Appended::Synced(receiver) | Appended::Local(receiver) | Appended::Remote(receiver) => receiver,
        Appended::Done => panic!("it is told later"),
    }
}

fn device(path: &str) -> Arc<FileDevice> {
    let durability = (Durability::Sync, Durability::Write);
    let target = FileTarget { place: FilePlace::File(path.into()), mode: Some(0o600), durability };
    let device = FileDevice::new(target, None, (String::new(), Sealing::for_tests(), Figures::of("file/"))).unwrap();
    device.reopen().unwrap();
    Arc::new(device)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_that_are_written_together_are_all_there_and_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let (device, figures) = (device(path.to_str().unwrap()), Figures::of("file/"));
    let tasks: Vec<_> = (0..200)
        .map(|task| {
            let (device, figures) = (device.clone(), figures.clone());
            tokio::spawn(async move {
                for n in 0..20 {
                    let line = format!("{{\"is\":\"{task} {n} {}\"}}\n", "x".repeat(task * 37));
                    let written = device.append_together(line.as_bytes(), &figures).unwrap();
                    assert!(told(written).await.unwrap());
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let text = fs::read_to_string(&path).unwrap();
    let keys = PublicKeys::from_pem(&Signer::from_seed(&[1; 32]).unwrap().public().pem()).unwrap();
    let mut reader = text.as_bytes();
    let report = holdfast_chain::verify([("f", &mut reader as &mut dyn io::BufRead)], &keys, &[]).unwrap();
    assert!(report.checkpoints >= 4 && report.unsealed < 1000 && report.lines == 4000 + report.checkpoints);
    let mut lines: Vec<(usize, usize)> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter_map(|line| Some(line["is"].as_str()?.to_owned()))
        .map(|line| {
            let [task, n, rest] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let task = task.parse().unwrap();
            assert_eq!(rest.len(), task * 37, "{line}");
            (task, n.parse().unwrap())
        })
        .collect();
    lines.sort_unstable();
    assert_eq!(lines, (0..200).flat_map(|t| (0..20).map(move |n| (t, n))).collect::<Vec<_>>());
}

/// A writer that has looked which file is open, and writes when another one is, leaves a gap there.
#[test]
fn lines_go_to_the_files_in_their_order_while_files_change() {
    const WRITERS: usize = 8;
    const FILES: usize = 200;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let target = FileTarget {
        place: FilePlace::File(path.clone()),
        mode: Some(0o600),
        durability: (Durability::Write, Durability::Write),
    };
    let of_tests = (String::new(), Sealing::for_tests(), Figures::of("file/"));
    let device = Arc::new(FileDevice::new(target, None, of_tests).unwrap());
    device.reopen().unwrap();
    let over = std::sync::atomic::AtomicBool::new(false);
    let mut files = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    device.append(b"{\"a\":1}\n", false).unwrap();
                }
            });
        }
        for n in 0..FILES {
            while fs::metadata(&path).unwrap().len() < 4096 {
                std::thread::yield_now();
            }
            let old = folder.path().join(n.to_string());
            fs::rename(&path, &old).unwrap();
            device.reopen().unwrap();
            files.push(old);
        }
        over.store(true, Ordering::SeqCst);
    });
    files.push(path);
    let mut readers: Vec<_> = files.iter().map(|f| io::BufReader::new(File::open(f).unwrap())).collect();
    let named = readers.iter_mut().map(|r| ("f", r as &mut dyn io::BufRead));
    let keys = PublicKeys::from_pem(&Signer::from_seed(&[1; 32]).unwrap().public().pem()).unwrap();
    let report = holdfast_chain::verify(named, &keys, &[]).unwrap();
    assert!(report.lines > 40 * FILES as u64);
}

/// As when a node loses the lead while answers are on their way: they go through the device of before.
#[test]
fn a_device_that_is_made_while_the_one_before_still_writes_goes_on_with_its_chain() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let before = device(path.to_str().unwrap());
    before.append(b"{\"n\":1}\n", true).unwrap();
    let after = device(path.to_str().unwrap());
    for late in 0..3 {
        after.append(b"{\"n\":2}\n", true).unwrap();
        before.append(b"{\"n\":3}\n", true).unwrap();
        if late == 1 {
            // Also over a rotation, of which the one before is not told.
            fs::rename(&path, folder.path().join("audit.log.1")).unwrap();
            after.reopen().unwrap();
        }
    }
    let keys = PublicKeys::from_pem(&Signer::from_seed(&[1; 32]).unwrap().public().pem()).unwrap();
    let texts = ["audit.log.1", "audit.log"].map(|name| fs::read(folder.path().join(name)).unwrap());
    let mut texts = texts.each_ref().map(Vec::as_slice);
    let named = texts.iter_mut().map(|text| ("f", text as &mut dyn io::BufRead));
    assert_eq!(holdfast_chain::verify(named, &keys, &[]).unwrap().lines, 7);
}

#[test]
fn a_pipe_takes_lines_and_more_than_the_kernel_takes_at_once_are_one_chain() {
    let (mut reader, writer) = io::pipe().unwrap();
    let piped = device(&format!("/proc/self/fd/{}", writer.as_raw_fd()));
    assert!(matches!(piped.append(b"{\"a\":1}\n{\"a\":2}\n", true).unwrap(), Appended::Done));
    let mut read = [0; 64];
    let n = reader.read(&mut read).unwrap();
    assert_eq!(&read[..n], b"{\"a\":1}\n{\"a\":2}\n");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let many: Vec<u8> = (0..3 * PIECES).flat_map(|n| format!("{{\"n\":{n}}}\n").into_bytes()).collect();
    let file = device(path.to_str().unwrap());
    file.append(&many, true).unwrap();
    file.append(b"{\"n\":0}\n", true).unwrap();
    let text = fs::read(&path).unwrap();
    let keys = PublicKeys::from_pem(&Signer::from_seed(&[1; 32]).unwrap().public().pem()).unwrap();
    let report = holdfast_chain::verify([("f", &mut text.as_slice() as &mut dyn io::BufRead)], &keys, &[]).unwrap();
    assert_eq!((report.lines, report.checkpoints), (3 * PIECES as u64 + 2, 1));
}

#[test]
fn a_pipe_that_nobody_reads_refuses_in_time_and_gets_whole_lines_when_somebody_does() {
    let (mut reader, writer) = io::pipe().unwrap();
    let piped = device(&format!("/proc/self/fd/{}", writer.as_raw_fd()));
    let line = |n: usize| format!("{{\"n\":{n},\"x\":\"{}\"}}\n", "x".repeat(6000)).into_bytes();
    let (mut taken, mut waiting) = (0, Vec::new());
    for n in 0..40 {
        match piped.append(&line(n), true).unwrap() {
            Appended::Done => taken += 1,
            other => waiting.push(told(other)),
        }
    }
    assert!(taken >= 8 && waiting.len() >= 20, "{taken} {}", waiting.len());
    assert_eq!(piped.waiting().0, waiting.len());
    for waits in waiting {
        assert!(!waits.blocking_recv().unwrap(), "its time is over");
    }
    assert!(piped.figures.is_failing());
    // The line that was begun is finished before another one comes.
    let next = piped.append(&line(40), true).unwrap();
    let mut text = Vec::new();
    while !text.ends_with(&line(40)) {
        let mut read = [0; 4096];
        let n = reader.read(&mut read).unwrap();
        text.extend_from_slice(&read[..n]);
    }
    assert!(told(next).blocking_recv().unwrap());
    let text = String::from_utf8(text).unwrap();
    let numbers: Vec<u64> = text
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap_or_else(|e| panic!("{e}: {l:.40}")))
        .map(|l| l["n"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers.last(), Some(&40));
    assert!(numbers.is_sorted() && !piped.figures.is_failing());
}

/// Lines of a file, all of them in one chain.
fn lines_of(path: &Path) -> u64 {
    let text = fs::read(path).unwrap();
    let keys = PublicKeys::from_pem(&Signer::from_seed(&[1; 32]).unwrap().public().pem()).unwrap();
    holdfast_chain::verify([("f", &mut text.as_slice() as &mut dyn io::BufRead)], &keys, &[]).unwrap().lines
}

#[test]
fn a_write_that_does_not_come_back_is_waited_for_once_and_then_by_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let device = device(path.to_str().unwrap());
    assert!(!device.apart.load(Ordering::Relaxed), "{path:?} is on a disk of this machine");
    device.append(b"{\"n\":1}\n", false).unwrap();
    let writes = device.log.chained().unwrap();
    let refused = |within: Duration| {
        let start = Instant::now();
        let why = [device.append(b"{}\n", false).err(), device.seal(true).err(), device.unsealed().err()];
        assert!(
            why.iter().flatten().all(|e| e.kind() == io::ErrorKind::TimedOut) && why.iter().all(Option::is_some),
            "{why:?}"
        );
        assert!(start.elapsed() < within, "{:?}", start.elapsed());
    };
    refused(2 * WRITE_WITHIN);
    (0..100).for_each(|_| refused(WRITE_WITHIN / 4));
    drop(writes);
    device.append(b"{\"n\":2}\n", false).unwrap();
    assert_eq!(lines_of(&path), 2);
}

#[test]
fn a_file_on_no_local_disk_is_written_to_by_a_thread_that_alone_waits_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let device = device(path.to_str().unwrap());
    device.apart.store(true, Ordering::Relaxed);
    let append = |n: usize| device.append(format!("{{\"n\":{n}}}\n").as_bytes(), n.is_multiple_of(2));
    assert!(told(append(0).unwrap()).blocking_recv().unwrap());
    // Synced, as a file of this kind promises.
    assert_eq!(lines_of(&path), 1);
    let hangs = device.log.chained().unwrap();
    let start = Instant::now();
    let waiting: Vec<_> = (0..100).map(|n| told(append(n).unwrap())).collect();
    assert!(start.elapsed() < Duration::from_secs(1), "nobody waits");
    assert_eq!(device.waiting().0, 100);
    for waits in waiting {
        assert!(!waits.blocking_recv().unwrap());
    }
    assert!(device.figures.is_failing());
    drop(hangs);
    let waiting: Vec<_> = (0..100).map(|n| told(append(n).unwrap())).collect();
    for waits in waiting {
        assert!(waits.blocking_recv().unwrap());
    }
    assert!(!device.figures.is_failing());
    assert_eq!(lines_of(&path), 101);
}

#[tokio::test]
async fn a_refusal_is_told_at_once() {
    let (device, figures) = (device("/dev/full"), Figures::of("full/"));
    for refused in [device.append_together(b"{}\n", &figures), device.append(b"{}\n", true)] {
        assert_eq!(refused.err().map(|e| e.kind()), Some(io::ErrorKind::StorageFull));
    }
}

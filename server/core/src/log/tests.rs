use holdfast_sdk::Chunks;

use super::*;

/// What a watch has, without waiting.
fn read(watch: &mut Watch) -> Vec<String> {
    let waker = std::task::Waker::noop();
    let mut cx = std::task::Context::from_waker(waker);
    let mut lines = Vec::new();
    while let std::task::Poll::Ready(Some(line)) = watch.poll_next(&mut cx) {
        lines.push(String::from_utf8(line).unwrap());
    }
    lines
}

fn with_log(level: Level, run: impl FnOnce(&Arc<Log>)) {
    let log = Log::new(level, Format::Standard);
    tracing::subscriber::with_default(tracing_subscriber::registry().with(Lines(log.clone())), || run(&log));
}

#[test]
fn a_module_logs_under_the_name_of_its_longest_path() {
    let name = |module| Loggers::name(Loggers::of(module));
    assert_eq!(name("holdfast_core::tokens::entry"), "token");
    assert_eq!(name("holdfast_core::tx"), "core");
    assert_eq!(name("holdfast_storage::log"), "storage");
    assert_eq!(name("somebody_elses"), "core");
}

#[test]
fn a_watch_has_a_level_of_its_own_and_the_log_keeps_its() {
    with_log(Level::Warn, |log| {
        assert_eq!(log.wanted("holdfast_core"), Level::Warn);
        let mut watch = log.watch(Level::Debug, Format::Standard).unwrap();
        assert_eq!(log.wanted("holdfast_core"), Level::Debug);
        tracing::trace!("not wanted");
        tracing::debug!(target: "h2::codec", "nor this, of a library");
        tracing::debug!(target: "holdfast_core::tokens", count = 3, who = "a b", path = "p", "wanted");
        let lines = read(&mut watch);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].ends_with("[DEBUG] token: wanted: count=3 who=\"a b\" path=p\n"), "{lines:?}");
        drop(watch);
        tracing::error!("the watch is gone");
        assert_eq!(log.wanted("holdfast_core"), Level::Warn);
    });
}

#[test]
fn one_logger_is_changed_and_set_back() {
    let log = Log::new(Level::Info, Format::Standard);
    log.set_level(Some("token"), Some(Level::Trace)).unwrap();
    let level = |name: &str| log.levels().find(|(n, _)| *n == name).unwrap().1;
    assert_eq!((level("token"), level("core")), (Level::Trace, Level::Info));
    log.set_level(None, Some(Level::Error)).unwrap();
    assert_eq!((level("token"), level("core")), (Level::Error, Level::Error));
    log.set_level(Some("token"), None).unwrap();
    assert_eq!((level("token"), level("core")), (Level::Info, Level::Error));
    assert!(log.set_level(Some("none"), None).is_err());
}

#[test]
fn a_line_stays_one_line_in_both_forms() {
    with_log(Level::Info, |log| {
        let mut standard = log.watch(Level::Info, Format::Standard).unwrap();
        let mut json = log.watch(Level::Info, Format::Json).unwrap();
        tracing::warn!(target: "holdfast_storage", path = "a\nb", "first\nsecond");
        let line = read(&mut standard).concat();
        assert!(line.ends_with("[WARN]  storage: first\\nsecond: path=\"a\\nb\"\n"), "{line}");
        let line: holdfast_sdk::Value = serde_json::from_str(&read(&mut json).concat()).unwrap();
        assert_eq!(line["@message"], "first\nsecond");
        assert_eq!((&line["@level"], &line["@module"]), (&"warn".into(), &"storage".into()));
        assert_eq!(line["path"], "a\nb");
    });
}

#[test]
fn a_slow_reader_loses_lines_and_is_told_how_many() {
    with_log(Level::Error, |log| {
        let mut watch = log.watch(Level::Info, Format::Standard).unwrap();
        for _ in 0..2000 {
            tracing::info!("again");
        }
        assert_eq!(read(&mut watch).len(), 1024);
        tracing::info!("again");
        let lines = read(&mut watch);
        assert!(lines[0].contains("976 lines were lost"), "{lines:?}");
        assert_eq!(lines.len(), 2);
    });
}

#[test]
fn there_are_not_more_watches_than_may_be_and_all_end_at_once() {
    let log = Log::new(Level::Info, Format::Standard);
    let mut watches: Vec<Watch> = (0..16).map(|_| log.watch(Level::Info, Format::Json).unwrap()).collect();
    assert!(log.watch(Level::Info, Format::Json).is_err());
    watches.pop();
    watches.push(log.watch(Level::Info, Format::Json).unwrap());
    log.end_watches();
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    for w in &mut watches {
        assert!(matches!(w.poll_next(&mut cx), std::task::Poll::Ready(None)));
    }
}

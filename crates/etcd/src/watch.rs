//! Snapshots of a prefix, now and after each change.
//!
//! A watch reads the prefix at a revision and follows etcd from the next revision on. However that ends (the
//! connection broke, the member is paused or has no leader, the next revision was compacted), it starts over
//! in the same way. So there is only one code path and no gap: missed changes are in the next snapshot, and a
//! slow listener skips to the latest one. The cost is a read of the prefix per reconnect; no history in etcd
//! is needed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::client::{KeyValue, Root};
use crate::error::{Error, Failure};
use crate::members::{Members, Repeat};
use crate::protocol::{Event, RangeResponse, WatchCreateRequest, WatchRequest, WatchResponse, path};

/// The interval of health checks while a watch is open; TCP alone doesn't detect a paused member.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
const READ_TIME: Duration = Duration::from_secs(2);
/// The pause before starting over.
const PAUSE: Duration = Duration::from_millis(200);

/// The last snapshot, or the error that ended the watch; `None` before the first one.
pub(crate) type Latest = Option<Result<Vec<KeyValue>, Error>>;

pub(crate) struct Follower {
    pub(crate) members: Arc<Members>,
    pub(crate) root: Root,
    pub(crate) prefix: String,
    pub(crate) latest: watch::Sender<Latest>,
}

impl Follower {
    pub(crate) async fn follow(self) {
        loop {
            // It ends without an error if the history was compacted or etcd closed the stream.
            if let Err(Failure::Refused { message, hint }) = self.once().await {
                self.latest.send_replace(Some(Err(Error::Refused { message, hint })));
                return;
            }
            sleep(PAUSE).await;
        }
    }

    async fn once(&self) -> Result<(), Failure> {
        let (key, range_end) = self.root.prefix(&self.prefix);
        let deadline = Instant::now() + READ_TIME;
        let found: RangeResponse =
            self.members.call(path::RANGE, self.root.range(&self.prefix), Repeat::Safe, deadline).await?;
        let start_revision = found.header.map_or(0, |header| header.revision) + 1;
        let mut keys = BTreeMap::new();
        for pair in found.kvs {
            keys.insert(pair.key.clone(), self.root.strip(pair)?);
        }
        self.publish(&keys);
        let connection = self.members.connection().await?;
        let create = WatchCreateRequest { key, range_end, start_revision };
        let followed = async {
            let question = WatchRequest { create: Some(create) };
            let mut answers = connection.stream::<_, WatchResponse>(path::WATCH, question).await?;
            let mut probes = interval(PROBE_INTERVAL);
            probes.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    answer = answers.message() => {
                        let answer = answer.map_err(|status| connection.failure(&status))?;
                        let Some(answer) = answer.filter(|answer| !answer.canceled) else { return Ok(()) };
                        if !answer.events.is_empty() {
                            self.apply(&mut keys, answer.events)?;
                            self.publish(&keys);
                        }
                    }
                    _ = probes.tick() => connection.probe().await?,
                }
            }
        };
        let ended = followed.await;
        if ended.is_err() {
            connection.leave();
        }
        ended
    }

    fn apply(&self, keys: &mut BTreeMap<Vec<u8>, KeyValue>, events: Vec<Event>) -> Result<(), Failure> {
        for event in events {
            let Some(pair) = event.kv else { continue };
            if event.kind == Event::DELETE {
                keys.remove(&pair.key);
            } else {
                keys.insert(pair.key.clone(), self.root.strip(pair)?);
            }
        }
        Ok(())
    }

    fn publish(&self, keys: &BTreeMap<Vec<u8>, KeyValue>) {
        let snapshot: Vec<KeyValue> = keys.values().cloned().collect();
        self.latest.send_if_modified(|latest| {
            let changed = !matches!(latest, Some(Ok(known)) if *known == snapshot);
            if changed {
                *latest = Some(Ok(snapshot));
            }
            changed
        });
    }
}

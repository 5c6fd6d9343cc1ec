//! Filling: one file of ours at the volume's top, as large as it takes.

use std::time::Duration;

use tokio::time::Instant;

use super::{Kind, Space, Volume};
use crate::{fault::FillGoal, journal::RevertResult};

/// What is taken in one go, so that the helper can do other things in between.
const CHUNK: u64 = 64 << 20;
/// How long one turn of a fill may last.
const TURN: Duration = Duration::from_millis(30);
/// What a file system may need for itself: closer than that a level is not reached.
const BLOCK: u64 = 4 << 10;

/// What is always left on a node's own disk.
const FLOOR: u64 = 256 << 20;

/// How much longer than it was to take a slow fill may take, at least: the node may be busy, and the last blocks are found one by one.
const MARGIN: Duration = Duration::from_secs(10);

/// A fill under way.
pub(super) struct Fill {
    pub(super) inode: u64,
    began: Instant,
    over: Duration,
    /// How full it was, and what is to be left.
    before: Space,
    goal: u64,
    /// The file's size.
    size: u64,
    reached: bool,
    failed: Option<String>,
}

/// How much is to be left free for everybody.
///
/// # Errors
/// It is that full already: nothing would change.
pub(super) fn wanted(goal: FillGoal, space: Space) -> Result<u64, String> {
    let left = left(goal, space);
    if space.avail <= left && (left > 0 || space.free < BLOCK) {
        return Err(format!("it is as full as that already ({}): filling it would change nothing", level(space)));
    }
    Ok(left)
}

/// A node's own disk is never filled so far that its kubelet and the helper could not go on.
///
/// # Errors
/// The goal leaves less than that.
pub(super) fn leaves_floor(goal: FillGoal, space: Space) -> Result<(), String> {
    let (left, floor) = (left(goal, space), FLOOR.max(space.size / 100));
    if left < floor {
        return Err(format!(
            "that would leave {left} bytes, and the node needs {floor} bytes to undo it (256 MiB or a hundredth of its disk): leave that much"
        ));
    }
    Ok(())
}

fn left(goal: FillGoal, space: Space) -> u64 {
    match goal {
        FillGoal::Leave(bytes) => bytes.0,
        FillGoal::Share(share) => {
            let usable = space.size.saturating_sub(space.free).saturating_add(space.avail);
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a share between 0 and 1"
            )]
            let left = (usable as f64 * (1.0 - share.0 / 100.0)) as u64;
            left
        }
    }
}

/// `93.1%, 4096 bytes free`.
pub(super) fn level(space: Space) -> String {
    format!("{:.1}% full, {} bytes free", space.share(), space.avail)
}

impl Fill {
    /// Makes the file, or takes over the one that is there.
    pub(super) fn begin(volume: &dyn Volume, name: &str, goal: FillGoal, over: Option<Duration>) -> Result<Self, String> {
        let space = volume.space()?;
        let (entry, goal) = match volume.entry(name)? {
            Some(entry) if entry.kind == Kind::File => (entry, left(goal, space)),
            Some(_) => return Err(format!("{name} is there and is no file: nothing was done")),
            None => {
                let goal = wanted(goal, space)?;
                (volume.create(name)?, goal)
            }
        };
        Ok(Self {
            inode: entry.inode,
            began: Instant::now(),
            over: over.unwrap_or_default(),
            before: space,
            goal,
            size: entry.size,
            reached: false,
            failed: None,
        })
    }

    pub(super) fn goes_on(&self) -> bool {
        !self.reached && self.failed.is_none()
    }

    /// What there is to say of a slow fill that should have come to its goal by now, and has not.
    fn late(&self, space: Space) -> Option<String> {
        let elapsed = self.began.elapsed();
        let late = !self.reached && !self.over.is_zero() && elapsed > self.over.saturating_add(MARGIN.max(self.over / 20));
        late.then(|| {
            let lacking = space.avail.saturating_sub(self.goal);
            let level = level(space);
            format!(
                "it was to take {} s, and after {} s it is {level}: {lacking} bytes too few are taken",
                self.over.as_secs(),
                elapsed.as_secs()
            )
        })
    }

    /// Makes the file as large as it should be by now, or a good part of that.
    pub(super) fn advance(&mut self, volume: &dyn Volume, name: &str) {
        let turn = Instant::now();
        // Bounded also where time stands still: a terabyte.
        for _ in 0..16_384 {
            if let Err(why) = self.go_on(volume, name) {
                self.failed = Some(why);
                return;
            }
            if self.reached || turn.elapsed() >= TURN || !self.over.is_zero() {
                return;
            }
        }
    }

    fn go_on(&mut self, volume: &dyn Volume, name: &str) -> Result<(), String> {
        let entry = volume.entry(name)?.ok_or_else(|| format!("{name} was removed"))?;
        if entry.inode != self.inode || entry.kind != Kind::File || entry.size < self.size {
            return Err(format!("{name} was replaced or cut"));
        }
        let space = volume.space()?;
        let elapsed = self.began.elapsed();
        let over = elapsed >= self.over;
        let due = if over {
            self.goal
        } else {
            let share =
                elapsed.as_micros().saturating_mul(u128::from(self.before.avail.saturating_sub(self.goal))) / self.over.as_micros().max(1);
            self.before.avail.saturating_sub(u64::try_from(share).unwrap_or(u64::MAX))
        };
        // All of it means also what is kept for root, which containers are as well.
        let lacking = if due == 0 { space.free } else { space.avail.saturating_sub(due) };
        if lacking < BLOCK {
            self.reached = over;
            return Ok(());
        }
        let size = volume.grow(name, self.inode, lacking.min(CHUNK))?;
        if size <= self.size {
            if due > 0 {
                return Err(format!("nothing more can be written, though {} bytes are free", space.avail));
            }
            self.reached = over;
        }
        self.size = size.max(self.size);
        Ok(())
    }
}

/// `from 31.0% to 31.2%`, in as many places as it takes to see that it grows.
fn grown(before: Space, now: Space) -> String {
    let at = |places: usize| (format!("{:.places$}%", before.share()), format!("{:.places$}%", now.share()));
    let (from, to) = (1..=4).map(at).find(|(from, to)| from != to).unwrap_or_else(|| at(1));
    format!("from {from} to {to}")
}

/// Whether it is as full as it should be by now, why it is not or is no more, and what there is. What is to take its time has bitten once
/// it grows; that it has come to its goal is asked when its time has passed.
pub(super) fn check(
    volume: &dyn Volume,
    name: &str,
    known: Option<&Fill>,
    goal: FillGoal,
    slowly: bool,
) -> Result<(bool, Option<String>, String), String> {
    let space = volume.space()?;
    let Some(entry) = volume.entry(name)? else {
        return Ok((false, Some(format!("{name} was removed")), format!("{}, nothing of ours is on it", level(space))));
    };
    let detail = format!("{}, {} bytes of it ours", level(space), entry.size);
    let Some(fill) = known else {
        // A helper that came after the one that filled: the level is all it can go by.
        let left = left(goal, space);
        let slack = (space.size / 100).max(BLOCK);
        let full = space.avail <= left.saturating_add(slack);
        let stopped = || format!("the helper that filled it is gone, and it is no fuller than {}", level(space));
        return Ok((entry.size > 0 && (slowly || full), (slowly && !full).then(stopped), detail));
    };
    let broken = if entry.inode != fill.inode || entry.size < fill.size { Some(format!("{name} was replaced or cut")) } else { None };
    let broken = broken.or_else(|| fill.failed.clone()).or_else(|| fill.late(space));
    let detail = match slowly && !fill.reached {
        true => format!(
            "it grows: {}, for {} s of {} s; {detail}",
            grown(fill.before, space),
            fill.began.elapsed().as_secs(),
            fill.over.as_secs()
        ),
        false => detail,
    };
    Ok((broken.is_none() && entry.size > 0 && (slowly || fill.reached), broken, detail))
}

/// Removes the file, if it is ours.
pub(super) fn revert(volume: &dyn Volume, name: &str, inode: Option<u64>) -> Result<(RevertResult, String), String> {
    let Some(entry) = volume.entry(name)? else {
        return Ok((RevertResult::Nothing, "nothing of ours is on it".to_owned()));
    };
    if entry.kind != Kind::File || inode.is_some_and(|inode| inode != entry.inode) {
        return Ok((RevertResult::Superseded, format!("{name} is not the file that was made: it was left alone")));
    }
    volume.remove(name)?;
    let space = volume.space()?;
    Ok((RevertResult::Reverted, format!("{} bytes given back, {}", entry.size, level(space))))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::{super::Entry, *};
    use crate::{fault::VolumeId, scenario::types::Percent};

    const MIB: u64 = 1 << 20;
    const NAME: &str = ".firedrill-x";

    /// A volume of 100 MiB, 10 of them taken, that gives a file so much at a time.
    struct Slow {
        ours: Cell<Option<u64>>,
        step: u64,
    }

    impl Volume for Slow {
        fn id(&self) -> VolumeId {
            VolumeId { device: String::new(), root: String::new() }
        }
        fn keep_from_filling(&self) -> Option<String> {
            None
        }
        fn space(&self) -> Result<Space, String> {
            let free = 90 * MIB - self.ours.get().unwrap_or(0);
            Ok(Space { size: 100 * MIB, free, avail: free })
        }
        fn entry(&self, _path: &str) -> Result<Option<Entry>, String> {
            Ok(self.ours.get().map(|size| Entry { inode: 7, kind: Kind::File, size }))
        }
        fn list(&self, _folder: &str) -> Result<Vec<String>, String> {
            Ok(Vec::new())
        }
        fn create(&self, _path: &str) -> Result<Entry, String> {
            self.ours.set(Some(0));
            Ok(Entry { inode: 7, kind: Kind::File, size: 0 })
        }
        fn make_folder(&self, path: &str) -> Result<(), String> {
            Err(path.to_owned())
        }
        fn grow(&self, _path: &str, _inode: u64, by: u64) -> Result<u64, String> {
            let size = self.ours.get().unwrap_or(0) + by.min(self.step);
            self.ours.set(Some(size));
            Ok(size)
        }
        fn read(&self, path: &str, _inode: u64, _offset: u64, _length: u64) -> Result<Vec<u8>, String> {
            Err(path.to_owned())
        }
        fn write(&self, path: &str, _inode: u64, _offset: u64, _bytes: &[u8]) -> Result<(), String> {
            Err(path.to_owned())
        }
        fn remove(&self, _path: &str) -> Result<bool, String> {
            Ok(self.ours.take().is_some())
        }
        fn rename(&self, from: &str, _to: &str) -> Result<bool, String> {
            Err(from.to_owned())
        }
    }

    /// Fills to 90% in 100 s, so many bytes at most every 100 ms, and tells what is seen at these seconds.
    async fn seen(step: u64, at: &[u64]) -> Vec<(bool, Option<String>, String)> {
        let (volume, goal) = (Slow { ours: Cell::new(None), step }, FillGoal::Share(Percent(90.0)));
        let mut fill = Fill::begin(&volume, NAME, goal, Some(Duration::from_secs(100))).unwrap();
        let began = Instant::now();
        let mut seen = Vec::new();
        for second in at {
            while began.elapsed() < Duration::from_secs(*second) {
                tokio::time::sleep(super::super::FILL_EVERY).await;
                if fill.goes_on() {
                    fill.advance(&volume, NAME);
                }
            }
            seen.push(check(&volume, NAME, Some(&fill), goal, true).unwrap());
        }
        seen
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_fill_says_how_far_it_is_and_comes_to_its_goal() {
        let seen = seen(MIB, &[1, 50, 130]).await;
        assert!(seen.iter().all(|(effective, broken, _)| *effective && broken.is_none()), "{seen:?}");
        assert!(seen[0].2.starts_with("it grows: from 10.0% to 10.8%, for 1 s of 100 s"), "{}", seen[0].2);
        assert!(seen[1].2.starts_with("it grows: from 10.0% to 50.0%, for 50 s"), "{}", seen[1].2);
        assert!(seen[2].2.starts_with("90.0% full"), "{}", seen[2].2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fill_that_is_too_slow_is_no_fill_once_its_time_has_passed() {
        // A thousand steps in 100 s: 4 MiB of the 80 that are wanted.
        let seen = seen(4 << 10, &[50, 105, 115]).await;
        assert!(seen[..2].iter().all(|(effective, broken, _)| *effective && broken.is_none()), "{seen:?}");
        let why = seen[2].1.as_deref().unwrap_or_default();
        assert!(!seen[2].0 && why.starts_with("it was to take 100 s, and after 115 s it is 14."), "{seen:?}");
    }

    #[test]
    fn a_later_helper_says_that_nobody_fills_it_any_more() {
        let volume = Slow { ours: Cell::new(Some(MIB)), step: MIB };
        let goal = FillGoal::Share(Percent(90.0));
        let (_, broken, _) = check(&volume, NAME, None, goal, true).unwrap();
        assert!(broken.unwrap_or_default().contains("the helper that filled it is gone"));
        volume.ours.set(Some(80 * MIB));
        assert_eq!(check(&volume, NAME, None, goal, true).unwrap().1, None);
    }

    #[test]
    fn growth_is_seen_where_it_is_small() {
        let at = |free| Space { size: 100_000, free, avail: free };
        assert_eq!(grown(at(90_000), at(80_000)), "from 10.0% to 20.0%");
        assert_eq!(grown(at(90_000), at(89_999)), "from 10.000% to 10.001%");
        assert_eq!(grown(at(90_000), at(90_000)), "from 10.0% to 10.0%");
    }
}

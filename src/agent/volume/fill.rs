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

/// A fill under way.
pub(super) struct Fill {
    pub(super) inode: u64,
    began: Instant,
    over: Duration,
    /// Free for everybody before, and what is to be left.
    before: u64,
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
            before: space.avail,
            goal,
            size: entry.size,
            reached: false,
            failed: None,
        })
    }

    pub(super) fn goes_on(&self) -> bool {
        !self.reached && self.failed.is_none()
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
                elapsed.as_micros().saturating_mul(u128::from(self.before.saturating_sub(self.goal))) / self.over.as_micros().max(1);
            self.before.saturating_sub(u64::try_from(share).unwrap_or(u64::MAX))
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

/// Whether it is full, how that was undone by others, and what there is.
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
    let mut detail = format!("{}, {} bytes of it ours", level(space), entry.size);
    let Some(fill) = known else {
        // A helper that came after the one that filled: the level is all it can go by.
        let left = left(goal, space);
        let slack = (space.size / 100).max(BLOCK);
        return Ok((entry.size > 0 && (slowly || space.avail <= left.saturating_add(slack)), None, detail));
    };
    let broken = if entry.inode != fill.inode || entry.size < fill.size { Some(format!("{name} was replaced or cut")) } else { None };
    let broken = broken.or_else(|| fill.failed.clone());
    if slowly && !fill.reached {
        detail.push_str(&format!(", for {} s of {} s", fill.began.elapsed().as_secs(), fill.over.as_secs()));
    }
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

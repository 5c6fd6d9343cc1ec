//! What a person or a log sees while a drill runs.
//!
//! On a terminal: a few lines redrawn in place (the step now, every probe's state, every objective's clock) below the
//! events as they come. Elsewhere: one line an event, with its time in UTC; or one line of JSON a record; or nothing.
//!
//! **Architecture invariant:** it only looks. Nothing here changes a drill, and a slow terminal never holds one up.

mod flaps;
mod line;
mod screen;

use std::{io::Write as _, sync::Arc, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use owo_colors::OwoColorize as _;
use tokio::{
    sync::{broadcast, mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{drill::Question, hint, journal::Record, plan::Plan, probe::Board};
use flaps::Flaps;
use line::{Tone, clean};
use screen::{Line, Screen};

/// How often the terminal is redrawn.
const REDRAW: Duration = Duration::from_millis(200);
/// The narrowest terminal that lines are cut for.
const NARROWEST: usize = 20;

/// How a drill is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Not at all.
    Quiet,
    /// One line of JSON a record, on standard output.
    Json,
    /// One line of text an event, on standard error.
    Plain,
    /// Redrawn in place on a terminal, on standard error.
    Terminal,
}

/// How many remarks of the prompt may wait to be shown.
const REMARKS: usize = 16;

/// A drill being shown.
#[derive(Debug)]
pub(crate) struct Live {
    task: tokio::task::JoinHandle<()>,
    stop: CancellationToken,
    typed: mpsc::Sender<Option<String>>,
}

impl Live {
    /// Starts showing a drill: its records, the board of its probes and what people are asked.
    pub(crate) fn start(
        plan: Arc<Plan>,
        drill: &str,
        records: broadcast::Receiver<Record>,
        board: watch::Receiver<Board>,
        asked: watch::Receiver<Vec<Question>>,
        mode: Mode,
        in_sandbox: bool,
    ) -> Self {
        let stop = CancellationToken::new();
        let (typed, remarks) = mpsc::channel(REMARKS);
        let view = View::new(plan, drill.to_owned(), mode, in_sandbox);
        let task = tokio::spawn(view.follow(records, board, asked, remarks, stop.clone()));
        Self { task, stop, typed }
    }

    /// Where to tell that a line was typed, with what to say about it: the terminal has echoed it into the view.
    pub(crate) fn typed(&self) -> mpsc::Sender<Option<String>> {
        self.typed.clone()
    }

    /// Shows what is left to show and gives the terminal back.
    pub(crate) async fn finish(self) {
        self.stop.cancel();
        // It ends as soon as it has shown what had been written by now; a terminal that takes nothing is not waited for.
        let _ = tokio::time::timeout(Duration::from_secs(2), self.task).await;
    }
}

struct View {
    plan: Arc<Plan>,
    screen: Screen,
    mode: Mode,
    in_sandbox: bool,
    color: bool,
    bar: Option<ProgressBar>,
    /// The runner's monotonic time when the newest record came, and when that was for this process.
    anchor: Option<(i64, i64, Instant)>,
    asked: Vec<Question>,
    flaps: Flaps,
}

impl View {
    fn new(plan: Arc<Plan>, drill: String, mode: Mode, in_sandbox: bool) -> Self {
        let color = mode == Mode::Terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let bar = (mode == Mode::Terminal).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
            if let Ok(style) = ProgressStyle::with_template("{msg}") {
                bar.set_style(style);
            }
            super::log::above(Some(&bar));
            bar
        });
        Self {
            screen: Screen::new(Arc::clone(&plan), drill, in_sandbox),
            plan,
            mode,
            in_sandbox,
            color,
            bar,
            anchor: None,
            asked: Vec::new(),
            flaps: Flaps::default(),
        }
    }

    async fn follow(
        mut self,
        mut records: broadcast::Receiver<Record>,
        mut board: watch::Receiver<Board>,
        mut asked: watch::Receiver<Vec<Question>>,
        mut typed: mpsc::Receiver<Option<String>>,
        stop: CancellationToken,
    ) {
        let mut redraw = tokio::time::interval(REDRAW);
        redraw.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let (mut board_lives, mut asked_lives) = (true, true);
        loop {
            tokio::select! {
                biased;
                record = records.recv() => match record {
                    Ok(record) => self.record(&record),
                    Err(broadcast::error::RecvError::Lagged(n)) => self.say(Tone::Warn, &format!("{n} records were too fast to be shown; the journal has them"), None),
                    Err(broadcast::error::RecvError::Closed) => break,
                },
                () = stop.cancelled() => break,
                changed = board.changed(), if board_lives => {
                    board_lives = changed.is_ok();
                    let now = board.borrow_and_update().clone();
                    self.board(&now);
                }
                changed = asked.changed(), if asked_lives => {
                    asked_lives = changed.is_ok();
                    let now = asked.borrow_and_update().clone();
                    self.questions(now);
                }
                Some(remark) = typed.recv() => self.typed(remark),
                _ = redraw.tick() => {
                    self.flapped(false);
                    self.draw();
                }
            }
        }
        // Whatever was written before the end is shown before the end.
        while let Ok(record) = records.try_recv() {
            self.record(&record);
        }
        self.flapped(true);
        if let Some(bar) = &self.bar {
            super::log::above(None);
            bar.finish_and_clear();
        }
    }

    /// The runner's monotonic and wall time now.
    fn now(&self) -> (i64, i64) {
        self.anchor.map_or((0, 0), |(mono, wall, at)| {
            let since = i64::try_from(at.elapsed().as_micros()).unwrap_or(i64::MAX);
            (mono.saturating_add(since), wall.saturating_add(since))
        })
    }

    fn record(&mut self, record: &Record) {
        self.anchor = Some((record.at.mono_us, record.at.wall_us, Instant::now()));
        match self.mode {
            Mode::Quiet => {}
            Mode::Json => {
                if let Ok(text) = serde_json::to_string(record) {
                    super::out::line(text);
                }
            }
            Mode::Plain | Mode::Terminal => {
                self.screen.record(record);
                if let Some((tone, text)) = line::of(&self.plan, &record.event) {
                    self.say(tone, &text, Some(record.at.wall_us));
                }
            }
        }
    }

    fn board(&mut self, board: &Board) {
        if matches!(self.mode, Mode::Plain | Mode::Terminal) {
            let (now_us, _) = self.now();
            for (probe, tone, text) in self.screen.board(board, now_us) {
                if let Some((tone, text)) = self.flaps.changed(&probe, tone, text) {
                    self.say(tone, &text, None);
                }
            }
        }
    }

    /// Says what was kept back of probes that flap.
    fn flapped(&mut self, end: bool) {
        for (tone, text) in self.flaps.due(end) {
            self.say(tone, &text, None);
        }
    }

    fn questions(&mut self, asked: Vec<Question>) {
        for question in asked.iter().filter(|q| !self.asked.contains(q)) {
            if self.mode == Mode::Plain && self.in_sandbox {
                let text = format!("waiting for a simulated participant, step {}: {}", question.step, question.text);
                self.say(Tone::Warn, &text, None);
            } else if self.mode == Mode::Plain {
                let how = if question.failed_step { " --retry, or --skip --remark REASON" } else { "" };
                let ack = hint::command(&format!("ack {}", question.step), &self.plan.place.firedrill.namespace);
                self.say(Tone::Warn, &format!("waiting for a person, step {}: {} ({ack}{how})", question.step, question.text), None);
            }
        }
        self.asked = asked;
    }

    /// A line was typed. Its newline moved the cursor a line down, where the lines drawn before would not be wiped away.
    fn typed(&self, remark: Option<String>) {
        if self.mode == Mode::Terminal {
            // A terminal that is gone needs no cursor.
            let _ = write!(std::io::stderr().lock(), "\x1b[1A");
        }
        if let Some(remark) = remark {
            self.say(Tone::Warn, &remark, None);
        }
    }

    fn say(&self, tone: Tone, text: &str, wall_us: Option<i64>) {
        let utc = crate::clock::utc(wall_us.unwrap_or_else(|| self.now().1));
        // Of `2026-11-22T15:04:05.678Z` the time is enough on a terminal.
        let time = if self.mode == Mode::Terminal { utc.get(11..19).unwrap_or(&utc) } else { utc.as_str() };
        let text = clean(text);
        match &self.bar {
            Some(bar) => {
                // What is too long goes on below its beginning.
                let (_, columns) = console_size();
                let wide = columns.saturating_sub(time.len() + 2).max(NARROWEST);
                for (n, line) in textwrap::wrap(&text, wide).into_iter().enumerate() {
                    let lead = if n == 0 { format!("{time} ") } else { " ".repeat(time.len() + 1) };
                    bar.println(self.paint(&vec![(Tone::Plain, lead), (tone, line.into_owned())]));
                }
            }
            None if self.mode == Mode::Plain => {
                let _ = writeln!(std::io::stderr().lock(), "{time} {text}");
            }
            None => {}
        }
    }

    fn draw(&self) {
        let Some(bar) = &self.bar else { return };
        let (_, columns) = console_size();
        let width = columns.saturating_sub(1).max(NARROWEST);
        let lines: Vec<String> = self.screen.lines(&self.asked, self.now().0, width).iter().map(|line| self.paint(line)).collect();
        bar.set_message(lines.join("\n"));
        bar.tick();
    }

    fn paint(&self, line: &Line) -> String {
        line.iter()
            .map(|(tone, text)| match (self.color, tone) {
                (true, Tone::Good) => text.green().to_string(),
                (true, Tone::Bad) => text.red().to_string(),
                (true, Tone::Warn) => text.yellow().to_string(),
                _ => text.clone(),
            })
            .collect()
    }
}

/// Rows and columns of the terminal on standard error.
fn console_size() -> (usize, usize) {
    rustix::termios::tcgetwinsize(std::io::stderr()).map_or((24, 80), |size| (size.ws_row.into(), usize::from(size.ws_col).max(NARROWEST)))
}

#[cfg(test)]
#[path = "live/tests.rs"]
mod tests;

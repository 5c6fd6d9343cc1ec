//! Schedules of CronJobs: the five fields and the macros that `robfig/cron` reads, in UTC.

use jiff::{
    ToSpan as _,
    civil::{Date, DateTime, time},
    tz::TimeZone,
};

/// A schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// The field was `*` or `?`: then the other of the two decides alone.
    any_day: bool,
    any_weekday: bool,
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// How far ahead a schedule is looked up: one that names only 29 February may have to wait eight years.
const YEARS: i16 = 9;

impl Schedule {
    /// Reads one.
    ///
    /// # Errors
    /// Why it is none.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = match text.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields.as_slice() else {
            return Err(format!("expected exactly 5 fields, found {}: [{text}]", fields.len()));
        };
        let any = |field: &str| field.starts_with('*') && !field.contains(',') && step_of(field) == 1 || field == "?";
        let mut week = field(weekdays, 0, 7, &WEEKDAYS, 0)?;
        // Sunday is 0, and 7, too.
        week |= week >> 7 & 1;
        Ok(Self {
            minutes: field(minutes, 0, 59, &[], 0)?,
            hours: field(hours, 0, 23, &[], 0)?,
            days: field(days, 1, 31, &[], 0)?,
            months: field(months, 1, 12, &MONTHS, 1)?,
            weekdays: week,
            any_day: any(days),
            any_weekday: any(weekdays),
        })
    }

    fn on(&self, date: Date) -> bool {
        let has = |set: u64, n: i8| set >> u32::from(n.unsigned_abs()) & 1 == 1;
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        // Both given: either will do.
        let fits = if self.any_day || self.any_weekday { day && weekday } else { day || weekday };
        has(self.months, date.month()) && fits
    }

    /// The first time after a time, both in microseconds since the Unix epoch. None: never.
    pub(super) fn after(&self, us: i64) -> Option<i64> {
        let since = jiff::Timestamp::from_microsecond(us).ok()?.to_zoned(TimeZone::UTC).datetime();
        let start: DateTime = since.date().at(since.hour(), since.minute(), 0, 0).checked_add(1.minute()).ok()?;
        let mut date = start.date();
        let last = date.checked_add(YEARS.years()).ok()?;
        while date <= last {
            if self.on(date) {
                let from = if date == start.date() { start.hour() } else { 0 };
                for hour in (from..24).filter(|hour| self.hours >> u32::from(hour.unsigned_abs()) & 1 == 1) {
                    let first = if date == start.date() && hour == start.hour() { start.minute() } else { 0 };
                    if let Some(minute) = (first..60).find(|minute| self.minutes >> u32::from(minute.unsigned_abs()) & 1 == 1) {
                        let at = date.to_datetime(time(hour, minute, 0, 0)).to_zoned(TimeZone::UTC).ok()?;
                        return Some(at.timestamp().as_microsecond());
                    }
                }
            }
            date = date.tomorrow().ok()?;
        }
        None
    }
}

fn step_of(field: &str) -> u32 {
    field.split_once('/').map_or(1, |(_, step)| step.parse().unwrap_or(1))
}

/// A field as a set of bits.
fn field(text: &str, least: u32, most: u32, names: &[&str], first_name: u32) -> Result<u64, String> {
    let wrong = |part: &str| format!("failed to parse {part:?} of {text:?}: it is not between {least} and {most}");
    let number = |part: &str| -> Result<u32, String> {
        let lower = part.to_lowercase();
        if let Some(n) = names.iter().position(|name| *name == lower) {
            return Ok(first_name + u32::try_from(n).unwrap_or(0));
        }
        part.parse().ok().filter(|n| (least..=most).contains(n)).ok_or_else(|| wrong(part))
    };
    let mut set = 0;
    for part in text.split(',') {
        let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
        let (from, to) = match range.split_once('-') {
            Some((from, to)) => (number(from)?, number(to)?),
            None if range == "*" || range == "?" => (least, if names.len() == 7 { 6 } else { most }),
            // `5/10`: from 5 on.
            None => (number(range)?, if step.is_some() { most } else { number(range)? }),
        };
        let step: u32 = step.map_or(Ok(1), |step| step.parse().ok().filter(|n| *n > 0).ok_or_else(|| wrong(part)))?;
        if from > to {
            return Err(format!("beginning of range ({from}) beyond end of range ({to}): {part}"));
        }
        for n in (from..=to).step_by(usize::try_from(step).unwrap_or(1)) {
            set |= 1 << n;
        }
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(schedule: &str, from: &str) -> String {
        let from: jiff::Timestamp = from.parse().unwrap();
        let at = Schedule::parse(schedule).unwrap().after(from.as_microsecond());
        at.map_or("never".to_owned(), |at| jiff::Timestamp::from_microsecond(at).unwrap().to_string())
    }

    #[test]
    fn the_next_time() {
        for (schedule, from, wanted) in [
            ("* * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"),
            ("* * * * *", "2026-01-01T00:00:59.9Z", "2026-01-01T00:01:00Z"),
            ("*/15 * * * *", "2026-01-01T00:44:10Z", "2026-01-01T00:45:00Z"),
            ("5/20 * * * *", "2026-01-01T00:26:00Z", "2026-01-01T00:45:00Z"),
            ("0 3 * * *", "2026-01-01T03:00:00Z", "2026-01-02T03:00:00Z"),
            ("0 0 29 2 *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 31 2 *", "2026-01-01T00:00:00Z", "never"),
            ("0 0 * * 7", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
            ("0 0 * * MON-FRI", "2026-01-03T00:00:00Z", "2026-01-05T00:00:00Z"),
            // Day of the month and of the week: either will do.
            ("0 0 15 * mon", "2026-01-06T00:00:00Z", "2026-01-12T00:00:00Z"),
            ("0 0 15 jan ?", "2026-01-06T00:00:00Z", "2026-01-15T00:00:00Z"),
            ("30 4 1,15 * *", "2026-01-01T04:30:00Z", "2026-01-15T04:30:00Z"),
            ("@hourly", "2026-01-01T23:30:00Z", "2026-01-02T00:00:00Z"),
        ] {
            assert_eq!(after(schedule, from), wanted, "{schedule} after {from}");
        }
    }

    #[test]
    fn what_is_no_schedule() {
        for wrong in
            ["", "* * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 8", "*/0 * * * *", "5-1 * * * *", "x * * * *"]
        {
            assert!(Schedule::parse(wrong).is_err(), "{wrong}");
        }
    }
}

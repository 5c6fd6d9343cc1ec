//! Who is due when. Each item stands in the queue once, at its earliest time, so that it is never longer than there are
//! objects times controllers.

use std::collections::BTreeMap;

use super::Item;

/// The queue.
#[derive(Debug, Default)]
pub(in crate::sandbox) struct Queue {
    due: BTreeMap<Item, i64>,
    order: BTreeMap<(i64, Item), ()>,
}

impl Queue {
    /// Puts an item in for a time, unless it is in for an earlier one.
    pub(in crate::sandbox) fn add(&mut self, item: Item, at: i64) {
        match self.due.get(&item) {
            Some(due) if *due <= at => return,
            Some(due) => drop(self.order.remove(&(*due, item.clone()))),
            None => {}
        }
        self.due.insert(item.clone(), at);
        self.order.insert((at, item), ());
    }

    /// Takes out the first item that is due.
    pub(super) fn take(&mut self, now: i64) -> Option<Item> {
        let (due, _) = self.order.first_key_value()?.0;
        if *due > now {
            return None;
        }
        let ((_, item), ()) = self.order.pop_first()?;
        self.due.remove(&item);
        Some(item)
    }

    /// When the next item is due.
    pub(super) fn next(&self) -> Option<i64> {
        self.order.first_key_value().map(|((due, _), ())| *due)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Key, Who},
        *,
    };

    fn item(name: &str) -> Item {
        (Who::Job, Key("shop".to_owned(), name.to_owned()))
    }

    #[test]
    fn each_item_once_at_its_earliest_time() {
        let mut queue = Queue::default();
        queue.add(item("a"), 30);
        queue.add(item("b"), 20);
        queue.add(item("a"), 10);
        queue.add(item("a"), 40);
        assert_eq!(queue.next(), Some(10));
        assert_eq!(queue.take(9), None);
        assert_eq!((queue.take(20), queue.take(20), queue.take(100)), (Some(item("a")), Some(item("b")), None));
    }
}

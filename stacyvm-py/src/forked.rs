//! Values that belong to one process, in objects that a fork copies.

use std::ops::Deref;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::sys::generation;

/// A value of the process that made it. In a forked child it is never dropped: its
/// connections and tasks are the parent's.
#[derive(Debug)]
pub(crate) struct OfProcess<T> {
    generation: u64,
    /// Something until it is dropped.
    value: Option<T>,
}

impl<T> OfProcess<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            generation: generation(),
            value: Some(value),
        }
    }

    /// The value, in the process that made it.
    pub(crate) fn get(&self) -> Option<&T> {
        self.value
            .as_ref()
            .filter(|_| self.generation == generation())
    }
}

impl<T> Drop for OfProcess<T> {
    fn drop(&mut self) {
        if self.generation != generation() {
            std::mem::forget(self.value.take());
        }
    }
}

/// A place for a value that each process makes for itself. Without a lock, which
/// another thread could have held during a fork.
#[derive(Debug)]
pub(crate) struct PerProcess<T>(ArcSwapOption<OfProcess<T>>);

/// A value of this process.
#[derive(Debug)]
pub(crate) struct Mine<T>(Arc<OfProcess<T>>);

impl<T> Deref for Mine<T> {
    type Target = OfProcess<T>;

    fn deref(&self) -> &OfProcess<T> {
        &self.0
    }
}

impl<T> PerProcess<T> {
    pub(crate) const fn empty() -> Self {
        Self(ArcSwapOption::const_empty())
    }

    pub(crate) fn of(value: T) -> Self {
        Self(ArcSwapOption::from_pointee(OfProcess::new(value)))
    }

    /// The value of this process, made now if there is none, and what `make` made in
    /// vain where another thread was faster.
    pub(crate) fn get_or_make(&self, make: impl Fn() -> T) -> (Mine<T>, Option<T>) {
        loop {
            let current = self.0.load_full();
            if let Some(there) = current.as_ref().filter(|there| there.get().is_some()) {
                return (Mine(Arc::clone(there)), None);
            }
            let mine = Arc::new(OfProcess::new(make()));
            let before = self.0.compare_and_swap(&current, Some(Arc::clone(&mine)));
            let swapped = match (before.as_ref(), current.as_ref()) {
                (None, None) => true,
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                _ => false,
            };
            if swapped {
                return (Mine(mine), None);
            }
            if let Some(there) = self.0.load_full().filter(|there| there.get().is_some()) {
                let unused = Arc::into_inner(mine).and_then(|mut mine| mine.value.take());
                return (Mine(there), unused);
            }
        }
    }

    /// Puts a value of this process in the place.
    pub(crate) fn set(&self, value: T) {
        self.0.store(Some(Arc::new(OfProcess::new(value))));
    }

    /// The value of this process.
    pub(crate) fn get(&self) -> Option<Mine<T>> {
        let there = self.0.load_full()?;
        there.get().is_some().then(|| Mine(there))
    }
}

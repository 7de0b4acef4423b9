//! The world's tasks: a small executor for one thread.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    fmt,
    future::Future,
    panic::Location,
    pin::Pin,
    rc::Rc,
    sync::PoisonError,
    task::{Context, Poll, Wake, Waker},
};

use super::World;
use crate::{
    driver::sim::{Event, lock},
    sync::{Arc, Mutex},
};

type Place = &'static Location<'static>;
type Body = Pin<Box<dyn Future<Output = ()>>>;

/// Tasks that were woken and not yet polled. Any thread may use a waker, so the set is shared.
#[derive(Debug, Default)]
struct Woken(Mutex<BTreeSet<u64>>);

impl Woken {
    fn with<R>(&self, use_it: impl FnOnce(&mut BTreeSet<u64>) -> R) -> R {
        use_it(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct TaskWaker {
    id: u64,
    woken: Arc<Woken>,
}

impl Wake for TaskWaker {
    fn wake(self: std::sync::Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &std::sync::Arc<Self>) {
        self.woken.with(|woken| woken.insert(self.id));
    }
}

struct Spawned {
    /// `None` while it is polled.
    body: Option<Body>,
    place: Place,
}

#[derive(Default)]
pub(super) struct Tasks {
    all: RefCell<BTreeMap<u64, Spawned>>,
    woken: Arc<Woken>,
    ids: Cell<u64>,
}

impl Tasks {
    fn add(&self, body: Body, place: Place) {
        let id = self.ids.get();
        self.ids.set(id + 1);
        self.all.borrow_mut().insert(id, Spawned { body: Some(body), place });
        self.woken.with(|woken| woken.insert(id));
    }

    /// The tasks that can run: woken, and not being polled further up the stack.
    pub(super) fn runnable(&self) -> Vec<u64> {
        let all = self.all.borrow();
        let can_run = |id: &u64| all.get(id).is_some_and(|task| task.body.is_some());
        self.woken.with(|woken| {
            woken.retain(|id| all.contains_key(id));
            woken.iter().copied().filter(can_run).collect()
        })
    }

    /// The tasks that the scheduler may poll although they were not woken.
    pub(super) fn callable(&self) -> Vec<u64> {
        let all = self.all.borrow();
        all.iter().filter(|(_, task)| task.body.is_some()).map(|(id, _)| *id).collect()
    }

    pub(super) fn poll(&self, id: u64) {
        self.woken.with(|woken| woken.remove(&id));
        let Some(mut body) = self.all.borrow_mut().get_mut(&id).and_then(|task| task.body.take())
        else {
            return;
        };
        let waker = Waker::from(Arc::new(TaskWaker { id, woken: self.woken.clone() }));
        let is_done = body.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        if is_done {
            drop(body);
            self.all.borrow_mut().remove(&id);
        } else if let Some(task) = self.all.borrow_mut().get_mut(&id) {
            task.body = Some(body);
        }
    }

    /// The numbers of the unfinished tasks, and where they were spawned.
    pub(super) fn waiting(&self) -> Vec<String> {
        let all = self.all.borrow();
        all.iter().map(|(id, task)| format!("task {id} of {}", task.place)).collect()
    }

    pub(super) fn drop_one(&self) -> bool {
        let task = self.all.borrow_mut().pop_first();
        task.is_some()
    }

    pub(super) fn forget(&self) {
        std::mem::forget(self.all.take());
    }
}

/// The outcome of a task, for the caller that waits for it.
struct Outcome<T> {
    value: Option<T>,
    is_done: bool,
    waker: Option<Waker>,
}

/// A task of a world. Dropping this lets the task go on; awaiting it gives the value that the task returned.
pub struct Task<T>(Rc<RefCell<Outcome<T>>>);

impl<T> Task<T> {
    /// Whether the task has returned.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.0.borrow().is_done
    }

    /// The value that the task returned, once.
    #[must_use]
    pub fn take(&self) -> Option<T> {
        self.0.borrow_mut().value.take()
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut outcome = self.0.borrow_mut();
        if let Some(value) = outcome.value.take() {
            return Poll::Ready(value);
        }
        assert!(!outcome.is_done, "the task's value was taken before");
        outcome.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("is_done", &self.is_done()).finish_non_exhaustive()
    }
}

/// A future that ends at a time of the world's clock.
#[derive(Debug)]
pub struct Sleep {
    world: World,
    until_ns: u64,
    /// The waker that the network holds.
    armed: Option<Waker>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.world.now_ns() >= self.until_ns {
            return Poll::Ready(());
        }
        let is_armed = self.armed.as_ref().is_some_and(|armed| armed.will_wake(context.waker()));
        if !is_armed {
            let waker = context.waker().clone();
            self.armed = Some(waker.clone());
            lock(&self.world.0.net).at(self.until_ns, Event::Wake(waker));
        }
        Poll::Pending
    }
}

impl World {
    /// Adds a task. The world drops tasks that are unfinished at its end.
    #[track_caller]
    pub fn spawn<T: 'static>(&self, body: impl Future<Output = T> + 'static) -> Task<T> {
        let outcome = Outcome { value: None, is_done: false, waker: None };
        let outcome = Rc::new(RefCell::new(outcome));
        let ours = outcome.clone();
        let body = Box::pin(async move {
            let value = body.await;
            let waker = {
                let mut outcome = ours.borrow_mut();
                outcome.value = Some(value);
                outcome.is_done = true;
                outcome.waker.take()
            };
            waker.into_iter().for_each(Waker::wake);
        });
        self.0.tasks.add(body, Location::caller());
        Task(outcome)
    }

    /// Runs the world until a future is done.
    ///
    /// # Panics
    /// As [`World::run_until`].
    #[track_caller]
    pub fn block_on<T: 'static>(&self, body: impl Future<Output = T> + 'static) -> T {
        let task = self.spawn(body);
        self.run_until(|| task.is_done());
        task.take().expect("a task that is done has its value")
    }

    /// A future that takes so many nanoseconds of the world's time.
    #[must_use]
    pub fn sleep(&self, ns: u64) -> Sleep {
        self.sleep_until(self.now_ns().saturating_add(ns))
    }

    /// A future that ends at a time of the world's clock.
    #[must_use]
    pub fn sleep_until(&self, until_ns: u64) -> Sleep {
        Sleep { world: self.clone(), until_ns, armed: None }
    }
}

use std::sync::mpsc;

use super::*;

const A: CallerId = CallerId(1);
const B: CallerId = CallerId(2);

/// Occupies both threads until what is returned is dropped.
fn occupy(pool: &Arc<Pool>) -> Vec<mpsc::SyncSender<()>> {
    let occupied = (0..THREADS).map(|_| {
        let (release, wait) = mpsc::sync_channel::<()>(1);
        let (begin, begun) = oneshot::channel();
        let pool = Arc::clone(pool);
        tokio::spawn(async move {
            let work = move || {
                let _ = begin.send(());
                let _ = wait.recv();
            };
            pool.run(A, None, work).await
        });
        (release, begun)
    });
    let (releases, begun): (Vec<_>, Vec<_>) = occupied.unzip();
    tokio::task::block_in_place(|| {
        for begun in begun {
            begun.blocking_recv().unwrap();
        }
    });
    releases
}

#[tokio::test(flavor = "multi_thread")]
async fn work_waits_for_its_turn_until_its_deadline() {
    let pool = Arc::new(Pool::start().unwrap());
    assert_eq!(pool.run(A, None, || 5).await, Ok(5));
    let busy = occupy(&pool);
    assert_eq!(pool.run(A, Some(Instant::now()), || 5).await, Err(Undone::Busy));
    let waiting = tokio::spawn({
        let pool = Arc::clone(&pool);
        async move { pool.run(B, None, || 6).await }
    });
    drop(busy);
    assert_eq!(waiting.await.unwrap(), Ok(6));
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_take_turns_step_by_step() {
    let pool = Arc::new(Pool::start().unwrap());
    let busy = occupy(&pool);
    let order = Arc::new(Mutex::new(Vec::new()));
    let work = |caller: CallerId, name: usize, mut steps: usize| {
        let order = Arc::clone(&order);
        let step = move || {
            order.lock().unwrap().push((caller.0, name));
            steps -= 1;
            (steps == 0).then_some(())
        };
        let pool = Arc::clone(&pool);
        let done = tokio::spawn(async move { pool.run_steps(caller, None, step).await });
        async move { done.await.unwrap().unwrap() }
    };
    let hostile: Vec<_> = (0..6).map(|name| work(A, name, 50)).collect();
    // They wait before the honest one does.
    while pool.0.lock().waiting.len() < hostile.len() {
        tokio::task::yield_now().await;
    }
    let honest = work(B, 100, 3);
    // On a busy machine, all steps could be done before it is queued.
    while pool.0.lock().waiting.len() <= hostile.len() {
        tokio::task::yield_now().await;
    }
    drop(busy);
    honest.await;
    let seen = order.lock().unwrap().clone();
    let before_last = seen.iter().rposition(|step| step.0 == B.0).unwrap();
    // Two or three for each of its own, of 300.
    let others = seen[..before_last].iter().filter(|step| step.0 == A.0).count();
    assert!(others < 60, "{others} steps of another caller before the third of this one");
    for one in hostile {
        one.await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_the_work() {
    let pool = Arc::new(Pool::start().unwrap());
    let alive = Arc::new(());
    let held = Arc::clone(&alive);
    let (begin, begun) = mpsc::sync_channel(1);
    let endless = pool.run_steps(A, None, move || {
        let _held = &held;
        let _ = begin.try_send(());
        None::<()>
    });
    let endless = tokio::time::timeout(Duration::from_millis(50), endless).await;
    assert!(endless.is_err());
    assert!(begun.recv().is_ok());
    let limit = std::time::Instant::now() + Duration::from_secs(10);
    while Arc::strong_count(&alive) > 1 {
        assert!(std::time::Instant::now() < limit, "the work is still there");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_work_that_has_begun() {
    let pool = Pool::start().unwrap();
    let deadline = Some(Instant::now() + Duration::from_millis(50));
    let endless = || {
        std::thread::yield_now();
        None::<()>
    };
    assert_eq!(pool.run_steps(A, deadline, endless).await, Err(Undone::Late));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_fails_its_own_work_only() {
    let pool = Pool::start().unwrap();
    for _ in 0..2 * THREADS {
        let failed = pool.run(A, None, || panic!("on purpose")).await;
        assert_eq!(failed, Err::<(), _>(Undone::Failed("on purpose".to_owned())));
    }
    assert_eq!(pool.run(A, None, || 5).await, Ok(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused_and_clients_that_left_make_room() {
    let pool = Arc::new(Pool::start().unwrap());
    let busy = occupy(&pool);
    let fill = |count: usize| -> Vec<_> {
        let one = || {
            let pool = Arc::clone(&pool);
            tokio::spawn(async move { pool.run(A, None, || ()).await })
        };
        (0..count).map(|_| one()).collect()
    };
    let waiting = fill(MOST_OF_CALLER + 1);
    let mut refused = 0;
    while refused == 0 {
        refused = waiting.iter().filter(|one| one.is_finished()).count();
        tokio::task::yield_now().await;
    }
    for one in waiting {
        one.abort();
        let _ = one.await;
    }
    let again = tokio::spawn({
        let pool = Arc::clone(&pool);
        async move { pool.run(A, None, || 7).await }
    });
    tokio::task::yield_now().await;
    drop(busy);
    assert_eq!(again.await.unwrap(), Ok(7));
}

/// Sends on which thread it is dropped.
struct Drops(mpsc::SyncSender<String>);

impl Drop for Drops {
    fn drop(&mut self) {
        let _ = self.0.send(std::thread::current().name().unwrap_or_default().to_owned());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_dropped_by_the_pool_however_full_their_caller_s_queue_is() {
    let pool = Arc::new(Pool::start().unwrap());
    let busy = occupy(&pool);
    let (tell, dropped) = mpsc::sync_channel(2 * MOST_OF_CALLER);
    let large = Elsewhere::new(&pool, A, true, Drops(tell.clone()));
    let mut waiting = Vec::new();
    for _ in 0..=MOST_OF_CALLER {
        let (held, pool) = (Drops(tell.clone()), Arc::clone(&pool));
        waiting.push(tokio::spawn(async move { pool.run(A, None, move || drop(held)).await }));
    }
    // The one that was refused was dropped here.
    assert!(!dropped.recv().unwrap().starts_with("phi4d-text"));
    drop(large);
    // Their clients leave, which the next request makes room by.
    for one in waiting {
        one.abort();
        let _ = one.await;
    }
    let next = tokio::spawn({
        let pool = Arc::clone(&pool);
        async move { pool.run(A, None, || 7).await }
    });
    tokio::task::yield_now().await;
    assert!(dropped.try_recv().is_err());
    drop((busy, tell));
    assert_eq!(next.await.unwrap(), Ok(7));
    let names: Vec<String> = dropped.iter().collect();
    assert_eq!(names.len(), MOST_OF_CALLER + 1);
    assert!(names.iter().all(|name| name.starts_with("phi4d-text")), "{names:?}");
}

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::activity::{Expected, OpenRequest};

/// Places whose connections are tasks that do nothing.
struct Case {
    places: Places,
    tasks: tokio::task::JoinSet<()>,
    open: VecDeque<(Id, Holder, Arc<Activity>)>,
    requests: Vec<OpenRequest>,
}

impl Case {
    fn new(bounds: Bounds) -> Self {
        Self {
            places: Places::new(bounds),
            tasks: tokio::task::JoinSet::new(),
            open: VecDeque::new(),
            requests: Vec::new(),
        }
    }

    fn enter(&mut self, holder: Holder) -> Arc<Activity> {
        let activity = Activity::new();
        let id = self.tasks.spawn(std::future::pending()).id();
        self.places.enter(id, holder, Arc::clone(&activity));
        self.open.push_back((id, holder, Arc::clone(&activity)));
        activity
    }

    fn enter_idle(&mut self, holder: Holder) {
        drop(self.enter(holder).request());
    }

    fn enter_busy(&mut self, holder: Holder) {
        let request = self.enter(holder).request();
        self.requests.push(request);
    }

    /// Those who were asked to leave do; whose they were.
    fn let_leave(&mut self) -> Vec<Holder> {
        let (leaving, staying) =
            self.open.drain(..).partition(|(_, _, activity)| activity.is_leaving());
        self.open = staying;
        let leaving: VecDeque<(Id, Holder, Arc<Activity>)> = leaving;
        for (id, _, _) in &leaving {
            self.places.leave(*id);
        }
        leaving.into_iter().map(|(_, holder, _)| holder).collect()
    }

    /// What becomes of a newcomer, once who was asked to leave has.
    fn decide(&mut self, holder: Holder) -> (Verdict, Vec<Holder>) {
        match self.places.judge(holder) {
            Verdict::Wait => {
                let left = self.let_leave();
                (self.places.judge(holder), left)
            }
            verdict => (verdict, Vec::new()),
        }
    }
}

fn at(number: u8) -> Holder {
    Holder::of([10, 0, 0, number].into())
}

fn bounds(most: usize) -> Bounds {
    Bounds::new(most, false, 0, 0)
}

#[test]
fn tcp_has_what_is_not_kept_for_the_unix_socket() {
    for (most, share) in [(1, 1), (2, 1), (8, 7), (9, 7), (20, 17), (1024, 896)] {
        assert_eq!(tcp_share(most, true), share, "of {most}");
        assert_eq!(tcp_share(most, false), most, "without a Unix socket");
    }
}

#[test]
fn addresses_are_distinguished_as_far_as_a_machine_cannot_choose_them() {
    let of = |text: &str| Holder::of(text.parse().unwrap());
    assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
    assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
    assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    assert_eq!(of("::ffff:127.0.0.2"), Holder::Loopback([127, 0, 0, 2].into()));
    assert_eq!(of("2001:db8:1:2::1").to_string(), "2001:db8:1:2::/64");
}

#[tokio::test]
async fn no_address_holds_more_than_its_bound() {
    let mut case = Case::new(bounds(20));
    for _ in 0..5 {
        assert_eq!(case.places.judge(at(1)), Verdict::Enter);
        case.enter(at(1));
    }
    assert_eq!(case.places.judge(at(1)), Verdict::OverBound(5));
    assert_eq!(case.places.judge(at(2)), Verdict::Enter);
    let mut case = Case::new(bounds(20));
    let local = Holder::of([127, 0, 0, 1].into());
    for _ in 0..15 {
        assert_eq!(case.places.judge(local), Verdict::Enter);
        case.enter(local);
    }
    assert_eq!(case.places.judge(local), Verdict::OverBound(15));
}

#[tokio::test]
async fn a_newcomer_gets_the_place_of_an_idle_one_of_who_holds_most() {
    let mut case = Case::new(Bounds { per_address: 9, ..bounds(9) });
    (0..2).for_each(|_| case.enter_idle(at(1)));
    (0..4).for_each(|_| case.enter_idle(at(2)));
    (0..3).for_each(|_| case.enter_busy(at(3)));
    assert_eq!(case.decide(at(4)), (Verdict::Enter, vec![at(2)]));
    case.enter_busy(at(4));
    // One is asked at a time.
    assert_eq!(case.places.judge(at(4)), Verdict::Wait);
    assert_eq!(case.places.judge(at(4)), Verdict::Wait);
    assert_eq!(case.let_leave().len(), 1);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_no_request_for_ever() {
    let mut case = Case::new(Bounds { per_address: 4, ..bounds(4) });
    for _ in 0..4 {
        let activity = case.enter(at(1));
        case.requests.push(activity.request());
        activity.set_expected(Expected::Body);
    }
    assert_eq!(case.decide(at(2)), (Verdict::Wait, vec![]));
    std::thread::sleep(GRACE);
    assert_eq!(case.decide(at(2)), (Verdict::Enter, vec![at(1)]));
}

#[tokio::test]
async fn who_has_a_request_stays_and_heads_give_way_to_who_holds_less() {
    let mut case = Case::new(Bounds { per_address: 6, ..bounds(6) });
    (0..4).for_each(|_| case.enter_busy(at(1)));
    case.enter(at(2));
    case.enter(at(2));
    assert_eq!(case.decide(at(2)), (Verdict::Wait, vec![]));
    assert_eq!(case.decide(at(3)), (Verdict::Enter, vec![at(2)]));
    case.enter_busy(at(3));
    assert_eq!(case.decide(at(3)), (Verdict::Wait, vec![]), "each holds one");
    assert_eq!(case.decide(at(4)), (Verdict::Enter, vec![at(2)]));
    case.enter_busy(at(4));
    assert_eq!(case.decide(at(5)), (Verdict::Wait, vec![]), "all have requests");
}

#[tokio::test]
async fn who_has_its_share_of_all_does_not_keep_others_at_the_door() {
    let mut case = Case::new(Bounds { per_address: 7, ..bounds(8) });
    (0..6).for_each(|_| drop(case.enter(at(1))));
    (0..2).for_each(|_| case.enter_busy(at(2)));
    assert_eq!(case.decide(at(1)), (Verdict::Crowded(6), vec![]));
    assert_eq!(case.decide(at(3)), (Verdict::Enter, vec![at(1)]));
    // Where one address may have all, a crowd of it waits outside.
    let mut case = Case::new(Bounds { per_address: 8, ..bounds(8) });
    (0..8).for_each(|_| case.enter_busy(at(1)));
    assert_eq!(case.decide(at(1)), (Verdict::Wait, vec![]));
}

#[tokio::test]
async fn the_unix_sockets_share_is_no_business_of_tcp() {
    let mut case = Case::new(Bounds::new(16, true, 16, 16));
    (0..14).for_each(|_| case.enter_busy(at(1)));
    assert_eq!(case.decide(at(2)), (Verdict::Wait, vec![]));
    for _ in 0..2 {
        assert_eq!(case.decide(Holder::User(1)).0, Verdict::Enter);
        case.enter_idle(Holder::User(1));
    }
    assert_eq!(case.decide(at(2)), (Verdict::Wait, vec![]), "TCP takes none of the Unix socket's");
    assert_eq!(case.decide(Holder::User(2)), (Verdict::Enter, vec![Holder::User(1)]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever comes: the bounds hold, nobody with a request is asked to leave, and an address that
    /// holds nothing waits only where everybody has a request.
    #[test]
    fn newcomers_of_small_holders_are_let_in(
        most in 4_usize..24,
        steps in prop::collection::vec((0_u8..5, 0_u8..4), 1..120),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _within = runtime.enter();
        let mut case = Case::new(bounds(most));
        for (number, what) in steps {
            let holder = at(number);
            let (verdict, left) = case.decide(holder);
            prop_assert!(left.len() <= 1);
            if verdict == Verdict::Enter {
                match what {
                    0 => case.enter_busy(holder),
                    1 => case.enter_idle(holder),
                    _ => drop(case.enter(holder)),
                }
            }
            prop_assert!(case.open.len() <= most);
            for (_, _, activity) in &case.open {
                prop_assert!(activity.now().0 != Doing::Request || !activity.is_leaving());
            }
            for number in 0..5 {
                prop_assert!(case.places.held_by(at(number)) <= case.places.bounds.per_address);
            }
            let (verdict, _) = case.decide(at(200));
            let all_busy =
                case.open.iter().all(|(_, _, activity)| activity.now().0 == Doing::Request);
            prop_assert!(verdict == Verdict::Enter || all_busy, "{verdict:?}");
        }
        prop_assert_eq!(case.requests.len(), case.open.iter()
            .filter(|(_, _, activity)| activity.now().0 == Doing::Request).count());
    }
}

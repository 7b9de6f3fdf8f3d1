//! States that several processes watch: what one of them told of, the others do not tell of again, nor does a process
//! that was started anew.

use std::collections::BTreeSet;

use super::{Notices, SystemEvent};
use crate::meta::MetaError;

impl Notices {
    /// The watched states that go on, by their names.
    ///
    /// # Errors
    /// The metadata database does not answer.
    pub async fn watched(&self) -> Result<BTreeSet<String>, MetaError> {
        self.0.meta.watched_states().all().await
    }

    /// Notes that a watched state begins or ends, and tells of it (if there is something to tell), unless another process
    /// has.
    ///
    /// # Errors
    /// The metadata database does not answer: nothing is noted and nothing told.
    pub async fn note_watched(
        &self,
        name: &str,
        begins: bool,
        event: Option<SystemEvent>,
    ) -> Result<(), MetaError> {
        let notice = event.map(|event| self.note(event));
        let is_told = notice.is_some();
        if self.0.meta.watched_states().note(name, begins, notice).await? && is_told {
            self.wake();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::Bench;
    use super::*;
    use crate::event::SystemEventKind;

    #[tokio::test]
    async fn of_many_processes_that_notice_a_state_one_tells_of_its_beginning_and_one_of_its_end() {
        let bench = Bench::with_topic().await;
        let (one, other) = (bench.process().await, bench.process().await);
        let event = |over: bool| {
            let payload = json!({ "over": over });
            Some(SystemEvent::of_project(SystemEventKind::LagOverThreshold, None, payload))
        };
        for process in [&one, &other, &one] {
            process.note_watched("lag", true, event(true)).await.unwrap();
        }
        assert_eq!(other.watched().await.unwrap(), BTreeSet::from(["lag".to_owned()]));
        // A process that is started anew knows of it, too.
        let anew = bench.process().await;
        anew.note_watched("lag", true, event(true)).await.unwrap();
        for process in [&anew, &one, &other] {
            process.note_watched("lag", false, event(false)).await.unwrap();
        }
        assert_eq!(one.watched().await.unwrap(), BTreeSet::new());
        one.note_watched("lag", true, event(true)).await.unwrap();
        anew.note_watched("quiet", true, None).await.unwrap();
        one.pass_on().await.unwrap();
        let told = bench.told().await;
        let count = |over: bool| told.iter().filter(|(payload, _)| payload["over"] == over).count();
        assert_eq!((told.len(), count(true), count(false)), (3, 2, 1), "{told:?}");
    }
}

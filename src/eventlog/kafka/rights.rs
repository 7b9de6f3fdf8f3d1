//! What a login may not do, told with the whole command that lets it.

use super::KafkaOptions;

/// Who logs in, and where: what goes into Kafka's own command for rights.
#[derive(Clone, Debug)]
pub(super) struct Rights {
    bootstrap: String,
    user: String,
}

impl Rights {
    pub(super) fn new(options: &KafkaOptions) -> Self {
        let user = options.sasl.as_ref().map_or("<name>", |sasl| sasl.username.as_str());
        Self { bootstrap: options.bootstrap_servers.join(","), user: user.to_owned() }
    }

    /// The setting that says who logs in, and what it says.
    pub(super) fn who(&self) -> String {
        format!("eventlog.kafka.sasl.username ({})", self.user)
    }

    /// The command that allows these operations on these topics.
    pub(super) fn on_topics<'t>(
        &self,
        operations: &[&str],
        topics: impl IntoIterator<Item = &'t str>,
    ) -> String {
        let topics: String = topics.into_iter().map(|topic| format!(" --topic {topic}")).collect();
        self.command(operations, if topics.is_empty() { " --topic <topic>" } else { &topics })
    }

    /// The command that allows to be a member of a group.
    pub(super) fn on_group(&self, group: &str) -> String {
        self.command(&["Read"], &format!(" --group {group}"))
    }

    fn command(&self, operations: &[&str], on: &str) -> String {
        let operations: String = operations.iter().map(|one| format!(" --operation {one}")).collect();
        let Self { bootstrap, user } = self;
        format!(
            "`kafka-acls --bootstrap-server {bootstrap} --add --allow-principal User:{user}{operations}{on}`"
        )
    }

    /// Of nobody in particular.
    #[cfg(test)]
    pub(super) fn for_test() -> Self {
        Self { bootstrap: "k1:9092".to_owned(), user: "ada".to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_whole() {
        let rights = Rights::for_test();
        assert_eq!(
            rights.on_topics(&["Describe", "Read"], ["events", "raw"]),
            "`kafka-acls --bootstrap-server k1:9092 --add --allow-principal User:ada --operation Describe \
             --operation Read --topic events --topic raw`"
        );
        assert!(rights.on_topics(&["Read"], []).ends_with(" --topic <topic>`"));
        assert!(rights.on_group("g").ends_with(" --operation Read --group g`"));
        let nobody = Rights::new(&KafkaOptions::for_test("k1:9092"));
        assert!(nobody.on_group("g").contains("User:<name>"));
    }
}

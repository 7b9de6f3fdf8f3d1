//! `flexflow test-accounts`: whom questions leave out when they are told to.

use serde_json::{Value, json};

use super::Ended;
use super::args::test_accounts::TestAccounts;
use super::operator::Operator;
use super::output::Output;

const PATH: &str = "/api/test-accounts";

pub(super) async fn run(
    command: &TestAccounts,
    operator: &Operator,
    output: Output,
) -> anyhow::Result<Ended> {
    let kept: Value = match command {
        TestAccounts::Show { .. } => operator.get(PATH, &[]).await?,
        TestAccounts::Set { filters, .. } => operator.put(PATH, &json!({ "filters": filters })).await?,
        TestAccounts::Clear { .. } => operator.put(PATH, &json!({ "filters": [] })).await?,
    };
    output.object(&kept)?;
    Ok(Ended::Done)
}

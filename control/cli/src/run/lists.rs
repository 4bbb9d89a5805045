//! Lists that holmd answers page by page, whole.

use super::Session;
use crate::Failure;
use crate::dial::Calls;
use holm_proto::v1::person_service_client::PersonServiceClient;
use holm_proto::v1::project_service_client::ProjectServiceClient;
use holm_proto::v1::slice_service_client::SliceServiceClient;
use holm_proto::v1::{ListPeopleRequest, ListProjectsRequest, ListSlicesRequest, Person, Project, Slice};

impl Session {
    pub(super) async fn all_projects(
        &self,
        client: &mut ProjectServiceClient<Calls>,
    ) -> Result<Vec<Project>, Failure> {
        pages(async |page_token| {
            let wanted = ListProjectsRequest { page_token, page_size: 0 };
            let page = self.ask(client.list_projects(wanted)).await?;
            Ok((page.projects, page.next_page_token))
        })
        .await
    }

    pub(super) async fn all_people(
        &self,
        client: &mut PersonServiceClient<Calls>,
    ) -> Result<Vec<Person>, Failure> {
        pages(async |page_token| {
            let page = self.ask(client.list_people(ListPeopleRequest { page_token, page_size: 0 })).await?;
            Ok((page.people, page.next_page_token))
        })
        .await
    }

    /// Of one project, or where it is empty of all.
    pub(super) async fn all_slices(
        &self,
        client: &mut SliceServiceClient<Calls>,
        project: &str,
    ) -> Result<Vec<Slice>, Failure> {
        pages(async |page_token| {
            let wanted = ListSlicesRequest { project: project.to_owned(), page_token, page_size: 0 };
            let page = self.ask(client.list_slices(wanted)).await?;
            Ok((page.slices, page.next_page_token))
        })
        .await
    }
}

/// Each page, asked for with the token of the one before.
async fn pages<T>(
    mut next: impl AsyncFnMut(String) -> Result<(Vec<T>, String), Failure>,
) -> Result<Vec<T>, Failure> {
    let (mut all, mut token) = (Vec::new(), String::new());
    loop {
        let (page, after) = next(token.clone()).await?;
        // Or what is no holmd would be asked for ever.
        if !after.is_empty() && (page.is_empty() || after == token) {
            return Err(Failure::new("the list that holmd sends has no end").hint("holm doctor"));
        }
        all.extend(page);
        if after.is_empty() {
            return Ok(all);
        }
        token = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_page_is_asked_for_once() {
        let mut asked = Vec::new();
        let all = pages(async |token| {
            asked.push(token.clone());
            Ok(match token.as_str() {
                "" => (vec!["ant", "bee"], "bee".to_owned()),
                "bee" => (vec!["cat"], "cat".to_owned()),
                _ => (Vec::new(), String::new()),
            })
        });
        assert_eq!(all.await.unwrap(), ["ant", "bee", "cat"]);
        assert_eq!(asked, ["", "bee", "cat"]);
    }

    #[tokio::test]
    async fn a_list_without_an_end_is_not_waited_for() {
        let same = pages(async |_| Ok((vec!["ant"], "ant".to_owned()))).await;
        let empty = pages(async |token| Ok((Vec::<&str>::new(), token + "x"))).await;
        for failure in [same.unwrap_err(), empty.unwrap_err()] {
            assert!(failure.what.contains("no end"), "{}", failure.what);
        }
    }
}

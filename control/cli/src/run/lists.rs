//! Lists that holmd answers page by page, whole.

use super::Session;
use crate::Failure;
use holm_proto::v1::person_service_client::PersonServiceClient;
use holm_proto::v1::project_service_client::ProjectServiceClient;
use holm_proto::v1::slice_service_client::SliceServiceClient;
use holm_proto::v1::{ListPeopleRequest, ListProjectsRequest, ListSlicesRequest, Person, Project, Slice};
use tonic::transport::Channel;

impl Session {
    pub(super) async fn all_projects(
        &self,
        client: &mut ProjectServiceClient<Channel>,
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
        client: &mut PersonServiceClient<Channel>,
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
        client: &mut SliceServiceClient<Channel>,
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

async fn pages<T>(
    mut next: impl AsyncFnMut(String) -> Result<(Vec<T>, String), Failure>,
) -> Result<Vec<T>, Failure> {
    let (mut all, mut token) = (Vec::new(), String::new());
    loop {
        let (page, after) = next(token).await?;
        all.extend(page);
        if after.is_empty() {
            return Ok(all);
        }
        token = after;
    }
}

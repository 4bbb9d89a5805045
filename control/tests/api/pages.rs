//! Long lists, page by page: nobody sees more by asking for less at once.

use crate::world::{World, hint};
use holm_proto::v1;
use tonic::Code;

const NAMES: [&str; 5] = ["ant", "bee", "cat", "dog", "elk"];

async fn projects(world: &World, who: &str, page_size: u32, page_token: &str) -> v1::ListProjectsResponse {
    let request = v1::ListProjectsRequest { page_size, page_token: page_token.to_owned() };
    world.projects(who).list_projects(request).await.unwrap().into_inner()
}

/// Every page, by the names on it.
async fn pages(world: &World, who: &str, page_size: u32) -> Vec<Vec<String>> {
    let (mut all, mut token) = (Vec::new(), String::new());
    loop {
        let page = projects(world, who, page_size, &token).await;
        all.push(page.projects.into_iter().map(|p| p.name).collect());
        token = page.next_page_token;
        if token.is_empty() {
            return all;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_is_on_one_page_and_of_others_nothing_is_told() {
    let world = World::full().await;
    for (name, who) in NAMES.iter().zip(["dina", "lars", "dina", "lars", "dina"]) {
        world.project(who, name, "2").await.unwrap();
    }
    // `brain` and `heart` were there.
    assert_eq!(
        pages(&world, "frida", 3).await,
        [vec!["ant", "bee", "brain"], vec!["cat", "dog", "elk"], vec!["heart"]]
    );
    assert_eq!(pages(&world, "dina", 2).await, [["ant", "cat"], ["elk", "heart"]]);
    assert_eq!(pages(&world, "dina", 0).await, [["ant", "cat", "elk", "heart"]]);
    // A token is a place, whoever has it, and opens nothing: `bee` is another lead's.
    let page = projects(&world, "dina", 2, "bee").await;
    assert_eq!(page.projects.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["cat", "elk"]);
    // After the last there is nothing, however much is asked for.
    assert_eq!(projects(&world, "dina", u32::MAX, "zebra").await, v1::ListProjectsResponse::default());
    // What is new moves nothing else.
    let first = projects(&world, "frida", 3, "").await;
    world.project("dina", "auk", "2").await.unwrap();
    let second = projects(&world, "frida", 3, &first.next_page_token).await;
    assert_eq!(second.projects.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["cat", "dog", "elk"]);

    let people =
        |page_size, page_token: &str| v1::ListPeopleRequest { page_size, page_token: page_token.to_owned() };
    let all = world.person("frida").list_people(people(0, "")).await.unwrap().into_inner().people;
    let mut paged = Vec::new();
    let mut token = String::new();
    loop {
        let page = world.person("frida").list_people(people(2, &token)).await.unwrap().into_inner();
        paged.extend(page.people);
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert!(all.len() > 4);
    assert_eq!(paged, all);

    for name in ["one", "two", "three"] {
        world.request("dina", &format!("heart/{name}"), 1).await.unwrap();
    }
    world.request("lars", "brain/four", 1).await.unwrap();
    for (who, project, wanted) in [
        ("frida", "", ["one", "two", "three", "four"].as_slice()),
        ("dina", "", ["one", "two", "three"].as_slice()),
        ("frida", "heart", ["one", "two", "three"].as_slice()),
    ] {
        let (mut found, mut token) = (Vec::new(), String::new());
        loop {
            let request =
                v1::ListSlicesRequest { project: project.to_owned(), page_size: 1, page_token: token };
            let page = world.slices(who).list_slices(request).await.unwrap().into_inner();
            assert!(page.slices.len() <= 1);
            found.extend(page.slices.into_iter().map(|s| s.name));
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(found, wanted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_page_may_be_empty_and_says_nothing_of_projects() {
    let world = World::full().await;
    world.request("dina", "heart/main", 1).await.unwrap();
    // The end of time.
    let place = format!("253402207200999999999/{}", world.get("dina", "heart/main").await.unwrap().id);
    for (who, project) in [("dina", "heart"), ("olga", "heart"), ("rune", "heart"), ("rune", "nothing")] {
        let (project, page_token) = (project.to_owned(), place.clone());
        let request = v1::ListSlicesRequest { project, page_size: 0, page_token };
        let page = world.slices(who).list_slices(request).await.unwrap().into_inner();
        assert_eq!(page, v1::ListSlicesResponse::default());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_nobody_is_refused_and_logged() {
    let world = World::full().await;
    let long = "x".repeat(1 << 19);
    for token in ["../x", "1", "0/0", "-", "\u{1f600}", long.as_str()] {
        let request = v1::ListSlicesRequest { page_token: token.to_owned(), ..Default::default() };
        let failure = world.slices("dina").list_slices(request).await.unwrap_err();
        assert_eq!(failure.code(), Code::InvalidArgument, "{failure}");
        assert!(failure.message().contains("page token"), "{}", failure.message());
        assert!(hint(&failure).contains("first page"));
    }
    let request = v1::ListProjectsRequest { page_token: "../x".to_owned(), ..Default::default() };
    assert_eq!(
        world.projects("dina").list_projects(request).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let request = v1::ListPeopleRequest { page_token: "../x".to_owned(), ..Default::default() };
    assert_eq!(world.person("frida").list_people(request).await.unwrap_err().code(), Code::InvalidArgument);
    let refused = |e: &&holm_control::audit::Entry| {
        e.outcome == "refused" && e.reasons.iter().any(|reason| reason.contains("page token"))
    };
    assert_eq!(world.log().iter().filter(refused).count(), 8);
}

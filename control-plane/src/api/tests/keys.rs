//! DKIM keys by the API: who may, what is published meanwhile, and what never comes back.

use super::*;

fn states(domain: &Value) -> Vec<(String, String)> {
    let text = |key: &Value, field: &str| key[field].as_str().unwrap().to_owned();
    domain["keys"].as_array().unwrap().iter().map(|key| (text(key, "selector"), text(key, "state"))).collect()
}

impl World {
    fn published_selectors(&self, domain: &str) -> Vec<String> {
        let latest = self.latest();
        let keys = &latest.domains.iter().find(|known| known.name == domain).unwrap().keys;
        keys.iter().map(|key| key.selector.clone()).collect()
    }
}

#[tokio::test]
async fn a_new_key_is_published_to_hosts_only_when_it_signs_and_a_former_one_no_more() {
    let world = World::new();
    let rotated =
        world.operator("POST", "/v2/domains/sender.example/keys/rotate", json!({"algorithm": "rsa-sha256"})).await;
    assert_eq!(rotated.0, 200, "{}", rotated.1);
    let new = states(&rotated.1).into_iter().find(|(_, state)| state == "waiting").unwrap().0;
    assert_eq!(world.published_selectors("sender.example"), ["pr1r", "pr1e"]);
    let again =
        world.operator("POST", "/v2/domains/sender.example/keys/rotate", json!({"algorithm": "rsa-sha256"})).await;
    assert_eq!(again.0, 409, "{}", again.1);

    let path = |act: &str| format!("/v2/domains/sender.example/keys/{act}");
    let (status, signing) = world.operator("POST", &path(&format!("{new}/sign")), Value::Null).await;
    assert_eq!(status, 200, "{signing}");
    assert_eq!(world.published_selectors("sender.example"), [new.as_str(), "pr1e"]);
    let former = &signing["keys"][0];
    assert!(
        former["state"] == "former" && former["keep_record_until_ms"].as_u64() > former["since_ms"].as_u64(),
        "{former}"
    );
    assert_eq!(world.operator("DELETE", &path("pr1r"), Value::Null).await.0, 409, "it is needed yet");
    let (_, retired) = world.operator("POST", &path("pr1r/retire"), Value::Null).await;
    assert_eq!(states(&retired)[0], ("pr1r".to_owned(), "retired".to_owned()));
    let problems = world.get("/v2/problems").await.to_string();
    assert!(problems.contains("remove TXT pr1r._domainkey.sender.example"), "{problems}");
    assert_eq!(world.operator("POST", &path("pr1r/sign"), Value::Null).await.0, 409, "its private key is gone");
    let (status, left) = world.operator("DELETE", &path("pr1r"), Value::Null).await;
    assert_eq!((status, states(&left).len()), (200, 2), "{left}");
    assert_eq!(world.operator("POST", &path("none/sign"), Value::Null).await.0, 404);
    assert_eq!(world.operator("POST", &path(&format!("{new}/retire")), Value::Null).await.0, 200);
    let (status, last) = world.operator("POST", &path("pr1e/retire"), Value::Null).await;
    assert!(status == 409 && last["detail"].as_str().unwrap().contains("unsigned"), "{last}");
}

#[tokio::test]
async fn a_stale_change_of_keys_is_told_the_difference_and_a_private_key_comes_back_nowhere() {
    let world = World::new();
    let path = "/v2/domains/sender.example/keys";
    let (_, tag, _) = world.guarded("Bearer po_token", "GET", "/v2/domains/sender.example", "", Value::Null).await;
    let pem = std::process::Command::new("openssl").args(["genpkey", "-algorithm", "ed25519"]).output().unwrap();
    let pem = String::from_utf8(pem.stdout).unwrap();
    let secret: String = pem.lines().nth(1).unwrap().to_owned();
    let body = json!({"selector": "june", "private_key": pem});
    let (status, next, made) = world.guarded("Bearer po_token", "POST", path, &tag, body.clone()).await;
    assert_eq!(status, 201, "{made}");
    assert_ne!(tag, next);
    let body = json!({"selector": "july", "private_key": pem});
    let (status, _, stale) = world.guarded("Bearer po_token", "POST", path, &tag, body.clone()).await;
    assert_eq!((status, &stale["difference"][0]["action"]), (412, &json!("changed")), "{stale}");
    let (status, twice) = world.operator("POST", path, body).await;
    assert!(status == 409 && twice["detail"].as_str().unwrap().contains("as june"), "{twice}");
    let audit = world.get("/v2/audit").await;
    let state = world.get("/v2/state?secrets=true").await;
    for answer in [&made, &stale, &twice, &audit, &state] {
        assert!(!answer.to_string().contains(&secret), "{answer}");
    }
    let stored = world.store.list("desired/").unwrap();
    assert!(!stored.entries.iter().any(|entry| String::from_utf8_lossy(&entry.value).contains(&secret)));
    let unknown = json!({"private": "x"});
    assert_eq!(world.operator("POST", path, unknown).await.1["errors"][0]["pointer"], "/private");
}

#[tokio::test]
async fn a_tenant_rotates_keys_of_domains_that_prove_themselves_and_vouches_for_none() {
    let world = World::new();
    let shop = world.tenant("shop").await;
    assert_eq!(world.call(&shop, "POST", "/v2/domains", json!({"name": "shop.example"})).await.0, 201);
    assert_eq!(world.call(&shop, "POST", "/v2/domains/shop.example/keys/rotate", json!({})).await.0, 200);
    assert_eq!(world.call(&shop, "POST", "/v2/domains/shop.example/keys/pr1r/sign", Value::Null).await.0, 403);
    assert_eq!(world.call(&shop, "POST", "/v2/domains/sender.example/keys/rotate", json!({})).await.0, 404);
    let (_, trusted) = world.operator("POST", "/v2/domains?tenant=shop", json!({"name": "own.example"})).await;
    assert_eq!(trusted["standing"], "trusted");
    assert_eq!(world.call(&shop, "POST", "/v2/domains/own.example/keys/rotate", json!({})).await.0, 403);
}

#[tokio::test]
async fn the_platforms_domain_is_published_as_such_and_has_to_exist() {
    let world = World::new();
    let set = |name: Value| json!({ "platform_domain": name });
    let (status, refused) = world.operator("PATCH", "/v2/settings", set(json!("platform.example"))).await;
    assert_eq!((status, &refused["errors"][0]["code"]), (409, &json!("platform_missing")), "{refused}");
    for (name, keys) in [("platform.example", json!([])), ("other.example", json!(["rsa-sha256"]))] {
        assert_eq!(world.operator("POST", "/v2/domains", json!({"name": name, "dkim_keys": keys})).await.0, 201);
    }
    let platforms = || -> Vec<String> {
        world.latest().domains.iter().filter(|domain| domain.is_platform).map(|domain| domain.name.clone()).collect()
    };
    for name in ["platform.example", "other.example"] {
        assert_eq!(world.operator("PATCH", "/v2/settings", set(json!(name))).await.0, 200);
        assert_eq!(platforms(), [name]);
        let problems = world.get("/v2/problems").await.to_string();
        assert_eq!(problems.contains("platform_without_key"), name == "platform.example", "{problems}");
    }
    let (status, refused) = world.operator("DELETE", "/v2/domains/other.example", Value::Null).await;
    assert_eq!((status, &refused["errors"][0]["code"]), (409, &json!("platform_missing")), "{refused}");
    assert_eq!(world.operator("PATCH", "/v2/settings", set(Value::Null)).await.0, 200);
    assert_eq!(platforms(), Vec::<String>::new());
}

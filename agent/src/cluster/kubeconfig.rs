//! Kubeconfigs, read as kubectl does: YAML to JSON's values, and those to what is meant.
//!
//! [`Kubeconfig::read_from`] makes YAML's code anew for each of its types: 300 kB of a binary that runs in a pod, mostly,
//! where there is no such file.

use std::path::Path;

use kube::config::Kubeconfig;

use super::answer::chain;

/// The file's documents as one. Relative paths in it are from its directory.
///
/// # Errors
/// What cannot be read of it, in words.
pub(super) fn read(path: &Path) -> Result<Kubeconfig, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mistaken = |error: String| format!("{}: {error}", path.display());
    let documents: Vec<serde_json::Value> =
        serde_saphyr::from_multiple(&text).map_err(|error| mistaken(error.to_string()))?;
    let mut all = Kubeconfig::default();
    for document in documents {
        let mut one: Kubeconfig =
            serde_json::from_value(document).map_err(|error| mistaken(error.to_string()))?;
        from_directory(&mut one, path.parent().unwrap_or_else(|| Path::new("")));
        all = all.merge(one).map_err(|error| mistaken(chain(&error)))?;
    }
    Ok(all)
}

fn from_directory(file: &mut Kubeconfig, directory: &Path) {
    let clusters = file.clusters.iter_mut().filter_map(|named| named.cluster.as_mut());
    let mut paths: Vec<&mut Option<String>> =
        clusters.map(|cluster| &mut cluster.certificate_authority).collect();
    for user in file.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
        paths.extend([&mut user.client_certificate, &mut user.client_key, &mut user.token_file]);
        // A bare name is looked for among programs.
        let command = user.exec.as_mut().map(|exec| &mut exec.command);
        paths.extend(command.filter(|command| command.as_ref().is_some_and(|name| name.contains('/'))));
    }
    for path in paths.into_iter().flatten() {
        // An absolute one stays what it is.
        if let Some(joined) = directory.join(&*path).to_str() {
            *path = joined.to_owned();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
apiVersion: v1
kind: Config
current-context: one
clusters:
- name: one
  cluster: {server: 'https://one:6443', certificate-authority: pki/ca.crt}
contexts:
- name: one
  context: {cluster: one, user: node}
users:
- name: node
  user: {client-certificate: /etc/node.crt, client-key: node.key, tokenFile: ''}
- name: plugin
  user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: bin/plugin}}
- name: program
  user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: aws}}
---
clusters:
- name: two
  cluster: {server: 'https://two:6443'}
";

    fn written(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubeconfig");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    /// kube's own reader is what it is held against.
    #[test]
    fn a_file_is_read_as_kube_reads_it() {
        let (_dir, path) = written(FILE);
        let (ours, kubes) = (read(&path).unwrap(), Kubeconfig::read_from(&path).unwrap());
        let as_json = |file: &Kubeconfig| serde_json::to_value(file).unwrap();
        assert_eq!(as_json(&ours), as_json(&kubes));
        assert_eq!(ours.clusters.len(), 2);
    }

    #[test]
    fn what_cannot_be_read_is_named_with_the_file() {
        for (text, said) in [
            ("clusters: [", "kubeconfig"),
            ("clusters: {}", "invalid type"),
            ("kind: Config\n---\nkind: Other\n", "kind"),
        ] {
            let (_dir, path) = written(text);
            let error = read(&path).unwrap_err();
            assert!(error.starts_with(path.to_str().unwrap()) && error.contains(said), "{text}: {error}");
        }
        assert!(
            read(Path::new("/nonexistent/kubeconfig"))
                .unwrap_err()
                .contains("/nonexistent/kubeconfig: No such")
        );
    }
}

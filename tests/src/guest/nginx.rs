// SPDX-License-Identifier: GPL-2.0

//! The web server nginx.

use crate::guest::{
    daemon::{Daemon, Folder},
    netns::Netns,
    tcp,
};

/// A running nginx. Dropping it ends it.
pub struct Nginx {
    _daemon: Daemon,
    _folder: Folder,
}

impl Nginx {
    /// Runs nginx in a network namespace, on port 80 of all its addresses. `/file` has `length`
    /// bytes.
    #[track_caller]
    pub fn new(net: &Netns, length: usize) -> Self {
        let folder = Folder::new();
        folder.write("file", vec![0x6b; length]);
        let configuration = folder.write(
            "nginx.conf",
            format!(
                "pid {0}/pid; error_log stderr; daemon off; user root;
                 events {{}}
                 http {{
                     access_log off; client_body_temp_path {0}/body; proxy_temp_path {0}/proxy;
                     fastcgi_temp_path {0}/fastcgi; uwsgi_temp_path {0}/uwsgi; scgi_temp_path {0}/scgi;
                     server {{ listen 80; listen [::]:80; root {0}; }}
                 }}",
                folder.path("")
            ),
        );
        let daemon = Daemon::run(net, "nginx", &["-c", &configuration]);

        tcp::await_listener(net, 80);
        Self {
            _daemon: daemon,
            _folder: folder,
        }
    }
}

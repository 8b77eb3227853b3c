//! The files of the web page. `vendor` holds others' work as npm has it; see
//! `packaging/page-libraries`.

/// Makes [`FILES`] of folders and names.
macro_rules! files {
    ($(($path:literal, $file:literal)),+ $(,)?) => {
        /// Paths and contents, the page first.
        pub(super) const FILES: &[(&str, &[u8])] =
            &[$(($path, include_bytes!($file) as &[u8])),+];
    };
}

files! {
    ("/", "web/index.html"),
    ("/page/api.js", "web/api.js"),
    ("/page/chat.js", "web/chat.js"),
    ("/page/code.js", "web/code.js"),
    ("/page/dom.js", "web/dom.js"),
    ("/page/icon.svg", "web/icon.svg"),
    ("/page/key.js", "web/key.js"),
    ("/page/main.js", "web/main.js"),
    ("/page/markdown.js", "web/markdown.js"),
    ("/page/maths.js", "web/maths.js"),
    ("/page/messages.js", "web/messages.js"),
    ("/page/page.css", "web/page.css"),
    ("/page/panels.css", "web/panels.css"),
    ("/page/parameters.js", "web/parameters.js"),
    ("/page/prose.css", "web/prose.css"),
    ("/page/say.js", "web/say.js"),
    ("/page/status.js", "web/status.js"),
    ("/page/store.js", "web/store.js"),
    ("/page/theme.js", "web/theme.js"),
    ("/page/vendor/LICENSE.highlight.js.txt", "vendor/LICENSE.highlight.js"),
    ("/page/vendor/LICENSE.katex.txt", "vendor/LICENSE.katex"),
    ("/page/vendor/LICENSE.marked.txt", "vendor/LICENSE.marked"),
    ("/page/vendor/highlight.min.js", "vendor/highlight.min.js"),
    ("/page/vendor/katex.min.css", "vendor/katex.min.css"),
    ("/page/vendor/katex.min.js", "vendor/katex.min.js"),
    ("/page/vendor/marked.esm.js", "vendor/marked.esm.js"),
    ("/page/vendor/fonts/KaTeX_AMS-Regular.woff2", "vendor/fonts/KaTeX_AMS-Regular.woff2"),
    ("/page/vendor/fonts/KaTeX_Caligraphic-Bold.woff2", "vendor/fonts/KaTeX_Caligraphic-Bold.woff2"),
    ("/page/vendor/fonts/KaTeX_Caligraphic-Regular.woff2", "vendor/fonts/KaTeX_Caligraphic-Regular.woff2"),
    ("/page/vendor/fonts/KaTeX_Fraktur-Bold.woff2", "vendor/fonts/KaTeX_Fraktur-Bold.woff2"),
    ("/page/vendor/fonts/KaTeX_Fraktur-Regular.woff2", "vendor/fonts/KaTeX_Fraktur-Regular.woff2"),
    ("/page/vendor/fonts/KaTeX_Main-Bold.woff2", "vendor/fonts/KaTeX_Main-Bold.woff2"),
    ("/page/vendor/fonts/KaTeX_Main-BoldItalic.woff2", "vendor/fonts/KaTeX_Main-BoldItalic.woff2"),
    ("/page/vendor/fonts/KaTeX_Main-Italic.woff2", "vendor/fonts/KaTeX_Main-Italic.woff2"),
    ("/page/vendor/fonts/KaTeX_Main-Regular.woff2", "vendor/fonts/KaTeX_Main-Regular.woff2"),
    ("/page/vendor/fonts/KaTeX_Math-BoldItalic.woff2", "vendor/fonts/KaTeX_Math-BoldItalic.woff2"),
    ("/page/vendor/fonts/KaTeX_Math-Italic.woff2", "vendor/fonts/KaTeX_Math-Italic.woff2"),
    ("/page/vendor/fonts/KaTeX_SansSerif-Bold.woff2", "vendor/fonts/KaTeX_SansSerif-Bold.woff2"),
    ("/page/vendor/fonts/KaTeX_SansSerif-Italic.woff2", "vendor/fonts/KaTeX_SansSerif-Italic.woff2"),
    ("/page/vendor/fonts/KaTeX_SansSerif-Regular.woff2", "vendor/fonts/KaTeX_SansSerif-Regular.woff2"),
    ("/page/vendor/fonts/KaTeX_Script-Regular.woff2", "vendor/fonts/KaTeX_Script-Regular.woff2"),
    ("/page/vendor/fonts/KaTeX_Size1-Regular.woff2", "vendor/fonts/KaTeX_Size1-Regular.woff2"),
    ("/page/vendor/fonts/KaTeX_Size2-Regular.woff2", "vendor/fonts/KaTeX_Size2-Regular.woff2"),
    ("/page/vendor/fonts/KaTeX_Size3-Regular.woff2", "vendor/fonts/KaTeX_Size3-Regular.woff2"),
    ("/page/vendor/fonts/KaTeX_Size4-Regular.woff2", "vendor/fonts/KaTeX_Size4-Regular.woff2"),
    ("/page/vendor/fonts/KaTeX_Typewriter-Regular.woff2", "vendor/fonts/KaTeX_Typewriter-Regular.woff2"),
}

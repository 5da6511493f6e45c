//! One declaration per group of settings, from which everything else follows: the typed struct, its
//! defaults, the shape of the YAML section, the names of the environment variables, `config show` and the
//! table in docs/configuration.md. So no setting can be documented, read or shown differently from what it is.

/// Declares a group of settings.
///
/// `name: Type = default, env "NAME", default "text for people";` The first environment variable that is
/// set wins; the text stands in the documentation where the default is computed.
macro_rules! section {
    (
        $(#[doc = $section_doc:literal])+
        pub struct $name:ident, file $file:ident {
            $(
                $(#[doc = $doc:literal])+
                $field:ident : $ty:ty = $default:expr $(, env $env:literal)* $(, default $default_text:literal)? ;
            )*
        }
    ) => {
        $(#[doc = $section_doc])+
        #[derive(Clone, Debug)]
        pub struct $name {
            $( $(#[doc = $doc])+ pub $field: $ty, )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default, )* }
            }
        }

        #[derive(Debug, Default, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub(crate) struct $file {
            $( pub(crate) $field: Option<serde_saphyr::Spanned<<$ty as $crate::config::value::Setting>::File>>, )*
        }

        impl $name {
            /// Lays file, environment and flags over what stands in `self`.
            pub(crate) fn overlay(
                &mut self,
                prefix: &str,
                file: Option<$file>,
                layers: &mut $crate::config::layers::Layers<'_>,
            ) {
                let file = file.unwrap_or_default();
                $(
                    layers.apply(
                        &format!("{prefix}.{}", stringify!($field)),
                        &[$($env),*],
                        file.$field,
                        &mut self.$field,
                    );
                )*
            }

            /// Appends every setting with its value, for `config show`.
            pub(crate) fn show(&self, prefix: &str, out: &mut Vec<$crate::config::render::Line>) {
                $(
                    out.push($crate::config::render::Line {
                        path: format!("{prefix}.{}", stringify!($field)),
                        value: $crate::config::value::Setting::shown(&self.$field),
                    });
                )*
            }

            /// Appends every setting with its documentation.
            pub(crate) fn describe(prefix: &str, out: &mut Vec<$crate::config::docs::Described>) {
                let defaults = Self::default();
                $(
                    let default_text: &[&str] = &[$($default_text),*];
                    out.push($crate::config::docs::Described {
                        path: format!("{prefix}.{}", stringify!($field)),
                        env: &[$($env),*],
                        kind: <$ty as $crate::config::value::Setting>::KIND,
                        default: match default_text.first() {
                            Some(text) => (*text).to_owned(),
                            None => $crate::config::value::Setting::shown(&defaults.$field).plain(),
                        },
                        doc: concat!($($doc),+).trim(),
                    });
                )*
            }
        }
    };
}

pub(crate) use section;

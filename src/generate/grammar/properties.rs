//! Properties of Unicode in regular expressions (`\p{…}`), as ECMAScript names them. The grammar library would take
//! more: names in any case, and scripts without `Script=`.

/// Values of General_Category, which need not name it.
const CATEGORIES: &str = "
    L Letter LC Cased_Letter Lu Uppercase_Letter Ll Lowercase_Letter Lt Titlecase_Letter Lm Modifier_Letter
    Lo Other_Letter M Mark Combining_Mark Mn Nonspacing_Mark Mc Spacing_Mark Me Enclosing_Mark N Number
    Nd Decimal_Number digit Nl Letter_Number No Other_Number P Punctuation punct Pc Connector_Punctuation
    Pd Dash_Punctuation Ps Open_Punctuation Pe Close_Punctuation Pi Initial_Punctuation Pf Final_Punctuation
    Po Other_Punctuation S Symbol Sm Math_Symbol Sc Currency_Symbol Sk Modifier_Symbol So Other_Symbol Z Separator
    Zs Space_Separator Zl Line_Separator Zp Paragraph_Separator C Other Cc Control cntrl Cf Format Cs Surrogate
    Co Private_Use Cn Unassigned";

/// Properties that a character has or has not.
const BINARY: &str = "
    ASCII Any Assigned Alphabetic Alpha ASCII_Hex_Digit AHex Case_Ignorable CI Cased Dash Diacritic Dia Emoji
    Emoji_Component EComp Emoji_Modifier EMod Emoji_Modifier_Base EBase Emoji_Presentation EPres
    Extended_Pictographic ExtPict Extender Ext Hex_Digit Hex ID_Continue IDC ID_Start IDS Ideographic Ideo
    Lowercase Lower Math Uppercase Upper White_Space space XID_Continue XIDC XID_Start XIDS";

/// Whether ECMAScript has the property, or could have the script. A script that there is not is left for the
/// library to refuse.
pub(super) fn is_known(name: &str) -> bool {
    let among = |names: &str, name: &str| names.split_whitespace().any(|other| other == name);
    match name.split_once('=') {
        None => among(CATEGORIES, name) || among(BINARY, name),
        Some(("General_Category" | "gc", value)) => among(CATEGORIES, value),
        Some(("Script" | "sc" | "Script_Extensions" | "scx", value)) => {
            value.split('_').all(|word| {
                let mut letters = word.chars();
                letters.next().is_some_and(|first| first.is_ascii_uppercase())
                    && letters.all(|letter| letter.is_ascii_lowercase())
            })
        }
        Some(_) => false,
    }
}

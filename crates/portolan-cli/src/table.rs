//! An aligned table of named numbers for a terminal. Not for: where the numbers come from.

use std::fmt;

/// A number and how it is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value {
    /// Digits in groups of three.
    Count(u64),
    /// Bytes, in the largest unit of 1024 that leaves at least one digit before the point.
    Bytes(u64),
}

/// A table: sections of rows.
#[derive(Default, Debug)]
pub struct Table {
    sections: Vec<Section>,
}

#[derive(Debug)]
struct Section {
    title: String,
    columns: Vec<String>,
    rows: Vec<(String, Vec<Value>)>,
}

impl Table {
    /// Starts a section; `columns` name the values of its rows.
    pub fn section(&mut self, title: &str, columns: &[&str]) {
        let columns = columns.iter().map(|&name| name.to_owned()).collect();
        self.sections.push(Section {
            title: title.to_owned(),
            columns,
            rows: Vec::new(),
        });
    }

    /// Adds a row to the last section.
    pub fn row(&mut self, name: &str, values: &[Value]) {
        if let Some(section) = self.sections.last_mut() {
            section.rows.push((name.to_owned(), values.to_vec()));
        }
    }

    fn name_width(&self) -> usize {
        let rows = self
            .sections
            .iter()
            .flat_map(|section| section.rows.iter().map(|(name, _)| name.len() + 2));
        rows.chain(self.sections.iter().map(|section| section.title.len()))
            .max()
            .unwrap_or(0)
    }

    fn value_width(&self) -> usize {
        let values = self
            .sections
            .iter()
            .flat_map(|section| section.rows.iter().flat_map(|(_, values)| values));
        let heads = self
            .sections
            .iter()
            .flat_map(|section| section.columns.iter().map(String::len));
        values
            .map(|value| value.to_string().len())
            .chain(heads)
            .max()
            .unwrap_or(0)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (names, values) = (self.name_width(), self.value_width());
        for (n, section) in self
            .sections
            .iter()
            .filter(|section| !section.rows.is_empty())
            .enumerate()
        {
            if n != 0 {
                writeln!(f)?;
            }
            write!(f, "{:names$}", section.title)?;
            for column in &section.columns {
                write!(f, "  {column:>values$}")?;
            }
            writeln!(f)?;
            for (name, row) in &section.rows {
                write!(f, "  {name:width$}", width = names - 2)?;
                for value in row {
                    write!(f, "  {:>values$}", value.to_string())?;
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Value::Count(count) => f.write_str(&grouped(count)),
            Value::Bytes(bytes) => {
                const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
                let step = (bytes.checked_ilog2().unwrap_or(0) as usize / 10).min(UNITS.len() - 1);
                let decimals = if step == 0 { 0 } else { 1 };
                write!(
                    f,
                    "{:.decimals$} {}",
                    bytes as f64 / (1u64 << (10 * step)) as f64,
                    UNITS[step]
                )
            }
        }
    }
}

/// 1234567 as "1,234,567".
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n != 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::default();
        table.section("calls", &["count", "errors"]);
        table.row("mmap", &[Value::Count(1234567), Value::Count(0)]);
        table.row("a_very_long_call", &[Value::Count(1), Value::Count(2)]);
        table.section("nothing", &["count"]);
        table.section("memory", &[]);
        table.row("peak resident set", &[Value::Bytes(1536 << 10)]);
        let expected = "\
calls                    count     errors
  mmap               1,234,567          0
  a_very_long_call           1          2

memory
  peak resident set    1.5 MiB
";
        let trimmed: String = table
            .to_string()
            .lines()
            .map(|line| format!("{}\n", line.trim_end()))
            .collect();
        assert_eq!(trimmed, expected);
    }

    #[test]
    fn numbers() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1000), "1,000");
        assert_eq!(grouped(u64::MAX), "18,446,744,073,709,551,615");
        assert_eq!(Value::Bytes(0).to_string(), "0 B");
        assert_eq!(Value::Bytes(1023).to_string(), "1023 B");
        assert_eq!(Value::Bytes(4096).to_string(), "4.0 KiB");
        assert_eq!(Value::Bytes(u64::MAX).to_string(), "16777216.0 TiB");
    }
}

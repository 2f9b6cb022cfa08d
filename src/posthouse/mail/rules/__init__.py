"""Rules about replies as data: what a mail server's words mean, and what they ask of us.

A file has `[providers]` (short name = list of host name endings) and `[[rule]]` tables. Every rule gives

- `name`, `class` (why), `scope` (whom it is about) and `reaction` (what it asks);
- when it fits: `provider`, `stages`, `codes` (450, "4xx"), `enhanced` ("5.1.1", "x.7.1", "x.7.500-699"), `phrases` (any one of these
  plain pieces of text), `pattern` (a regular expression). All that are given must fit; texts are compared in lower case;
- for the message: `retry_after` (seconds), `permanent` (overrules the reply code), `fails_as = "blocked"` (the class of a permanent
  refusal that is a block of ours), `suppress_after` (on how many different days the reply must come before the address is suppressed);
- for the named scope: `hold` (seconds; alone it lets nothing leave), `rate` ("10/minute"), `connections`, `messages_per_connection`,
  `repeat = "halve"`, and when: `after` so many replies `within` so many seconds (1 in 3600);
- for a person: `mend` (what to do), `stops` ("campaign" or "stream"), `sites` (from how many sites the replies must come), `stop_after`
  (seconds after which a brake that is still needed stops the campaign);
- `subject`, a regular expression whose one group is the name that the reply gives what it is about;
- `example`: a real reply that the rule must decide.
"""

from posthouse.mail.rules.reading import parse_rules, read_rules, shipped_rules
from posthouse.mail.rules.rule import BrakeTerms, Rule, Rulebook, Stage, Trigger

__all__ = ["BrakeTerms", "Rule", "Rulebook", "Stage", "Trigger", "parse_rules", "read_rules", "shipped_rules"]

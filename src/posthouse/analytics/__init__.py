"""Analytics: what the ledger says, counted.

Reads the ledger by cursor and writes `campaign_counts` and `ledger_cursors`. Never the source of a fact: every number here can be
counted again from the ledger.
"""

from posthouse.analytics.counts import CampaignCount, campaign_counts, count_news, final_count
from posthouse.analytics.funnel import Funnel, funnel_of

__all__ = ["CampaignCount", "Funnel", "campaign_counts", "count_news", "final_count", "funnel_of"]

"""The message of the benchmark: 10 kB of multipart/alternative with ten tracked links, as blanks only or with logic."""

from __future__ import annotations

from posthouse.composing import Draft

_SENTENCE = "The winter timetable brings earlier coaches to the coast and a later one home on every day of the week. "


def draft(*, logic: bool) -> Draft:
    """A personalised newsletter; logic: with `if` and `for`, so that the render child makes it."""
    items = "".join(
        f'<p style="margin:0 0 12px">{_SENTENCE * 3}<a href="https://www.posthouse.example/route/{n}">Route {n} '
        "for {{ city }}</a></p>"
        for n in range(10)
    )
    opening = (
        "{% if plan == 'pro' %}<p>Thank you for travelling with us, {{ first_name }}.</p>{% endif %}" if logic else ""
    )
    loop = "<ul>{% for tag in tags %}<li>{{ tag }}</li>{% endfor %}</ul>" if logic else ""
    html = (
        "<html><body><h1>Good morning {{ first_name }}</h1>"
        f"{opening}{items}{loop}"
        '<p>{{ postal_address }} <a href="{{ unsubscribe_url }}">Leave this list</a></p></body></html>'
    )
    return Draft(
        subject="{{ first_name }}, the winter timetable is here",
        from_address="news@posthouse.example",
        from_name="Posthouse Bench",
        html=html,
    )

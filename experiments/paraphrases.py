"""Eight texts, each with a paraphrase of as many tokens (of SmolLM2), so that masks of one fit the other."""

PAIRS: tuple[tuple[str, str], ...] = (
    (
        "The committee met for three hours on Tuesday and then announced that the new bridge across the river would be",
        "The council met for several hours on Thursday and later announced that the old bridge over the river would be",
    ),
    (
        "After the storm had passed over the island, the sailors went back to the harbour and found that their",
        "Once the storm had moved past the island, the fishermen went down to the harbour and saw that their",
    ),
    (
        "She wrote her first novel while she was living in a small village in the north of Italy, where she",
        "He wrote his second novel while he was staying in a quiet village in the south of France, where he",
    ),
    (
        "The album was released in the spring of that year and received mostly good reviews from music critics, who",
        "The record was issued in the summer of that year and got mainly positive reviews from most critics, who",
    ),
    (
        "Because the soil on the northern side of the hill is very dry, farmers there grow little more than",
        "Since the ground on the eastern side of the mountain is so dry, people there grow little else than",
    ),
    (
        "The species is found mainly in the forests of South America, where it feeds on fruit, insects and small",
        "The bird is found mostly in the woods of Central America, where it lives on seeds, insects and small",
    ),
    (
        "During the second half of the match the home side scored twice and the visitors were never able to",
        "In the second half of the game the home team scored twice and the guests were not able to",
    ),
    (
        "The museum was built on the site of an old factory and is now visited every year by more than",
        "The theatre was built on the ground of an old prison and is now seen each year by more than",
    ),
)

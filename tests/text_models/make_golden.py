"""Writes texts.json and embeddings.f32: 200 texts, and the embeddings that sentence-transformers computes for them with
all-MiniLM-L6-v2.

    python make_golden.py MODEL_DIRECTORY

Needs the packages of requirements.txt; model.txt names the package that contains the model. embeddings.f32 has 200 × 384
values, little-endian f32, row by row.
"""

import itertools
import json
import sys
from pathlib import Path

from sentence_transformers import SentenceTransformer

HERE = Path(__file__).resolve().parent

WHO = ["a baby", "two dogs", "my grandmother", "the neighbours' cat", "nobody", "a girl in a red coat", "our class of 1987"]
WHERE = ["on the beach", "in the bath", "at a birthday party", "under an apple tree", "beside the old car", "in the snow", "on the train to Kyoto", "at the lighthouse"]

PLAIN = """
birthday cake
sunset over the harbour
Who is the man with the umbrella?
IMG_2041.JPG
the 3rd of May, 2019
receipt: 2 × coffee, 1 × tea = €7.40
A black and white photograph of a lighthouse.
Fireworks!!!
what does a happy family look like
picture of a picture
not a dog
no people, only hills and a long empty road
She said: "Look, it's snowing!" -- and ran out without her shoes.
blurred
f/2.8, 1/500 s, ISO 200, 35 mm
the wedding of Ann-Marie O'Neill and José García-López
naïve café façade coöperation
https://example.org/albums/42?page=3#top
user@example.org
C++ and C# on a T-shirt
SELECT * FROM photos WHERE baby IS NOT NULL;
a  text   with    many     spaces
tab	separated	words
(((brackets))) [and] {others}
...
?
-
a
I
42
0.5
ﬁne ligatures in a ﬂower shop
ＦＵＬＬＷＩＤＴＨ letters
x² + y² = r²
½ cup of sugar, ¾ cup of flour
→ left to right ←
👶
👶🏽 in the bath 🛁
🎂🎉🎈
family: 👨‍👩‍👧‍👦
café
hyphen-ated and under_scored
antidisestablishmentarianism and floccinaucinihilipilification
kjhgfdsa qwertzuiop mnbvcxy
Donaudampfschifffahrtsgesellschaftskapitän
THE QUEUE AT THE ICE CREAM VAN
tHe cAsE oF tHe lEtTeRs
[CLS] spelled [SEP] out [MASK] [PAD] [UNK]
##ing ##ed
<s> </s> <pad>
""".strip("\n").split("\n")

OTHERS = """
Ein Fahrrad lehnt an der Mauer, daneben schläft eine Katze.
Großmutters siebzigster Geburtstag
Les enfants jouent au bord de la rivière, près du vieux pont.
un chien sur la plage à l'île de Ré
El niño mira las estrellas desde la ventana de su habitación.
¿Dónde está el bebé?
Una bambina con un palloncino rosso
Een fiets in de regen
Dítě si hraje na zahradě.
Kedi pencerenin önünde uyuyor, İstanbul'da ılık bir gün.
Trẻ em thả diều trong công viên.
Бабушка печёт пироги, а кошка спит на подоконнике.
Το παιδί κοιτάζει τη θάλασσα.
赤ちゃんが庭で笑っている。
ｶﾀｶﾅ と ひらがな
孩子们在公园里放风筝，天空很蓝。
아기가 웃고 있어요
طفل يلعب في الحديقة مع أخته الصغيرة.
ילד על החוף
बच्चा हँस रहा है
เด็กกำลังหัวเราะ
ሕፃን
""".strip().split("\n")

ODD = [
    "",
    " ",
    "\n\n\t",
    "\u200b",
    "\u00a0a\u00a0baby\u00a0",
    "a\u0001b",
    "line one\r\nline two\rline three\nline four",
    "e\u0301 and é, A\u030a and Å and \u212b",
    "\ufeffbyte order mark",
    "soft\u00adhyphen",
    "\u202eright to left",
    "\U0001f9ff\U0001fae8\U00020000\ue000",
    "w" * 99,
    "w" * 101,
    "ab" * 3000,
    "a " * 252,
    "a " * 253,
    "a " * 254,
    "a " * 255,
    "a " * 256,
    "the beach and the sea and the sky and " * 5,
    "the beach and the sea and the sky and " * 40,
    "the beach and the sea and the sky and " * 400,
    " " * 5000 + "a baby" + " " * 5000,
    "赤ちゃん" * 400,
    "The old album begins with a picture of the house. " * 30 + "It ends with a dog.",
    "The old album begins with a picture of the house. " * 20 + "It ends with a dog.",
    "!" * 300,
    "1234567890" * 20,
]


def texts():
    pairs = [f"{who} {where}" for who, where in itertools.product(WHO, WHERE)]
    sentences = [f"{a[0].upper()}{a[1:]}; then {b}." for a, b in zip(pairs, pairs[3:])]
    found = PLAIN + OTHERS + ODD + pairs + sentences
    return found[:199] + ["The end of the list, where there is nothing but a long and quiet road."]


def main():
    found = texts()
    assert len(found) == len(set(found)) == 200, (len(found), len(set(found)))
    model = SentenceTransformer(sys.argv[1], device="cpu", local_files_only=True)
    embeddings = model.encode(found, batch_size=1)
    assert embeddings.shape == (200, 384)
    (HERE / "texts.json").write_text(json.dumps(found, ensure_ascii=True, indent=0) + "\n")
    (HERE / "embeddings.f32").write_bytes(embeddings.astype("<f4").tobytes())
    lengths = [len(model.tokenizer(text)["input_ids"]) for text in found]
    print(f"{sum(length > 256 for length in lengths)} of {len(found)} texts are cut at 256 tokens")


if __name__ == "__main__":
    main()

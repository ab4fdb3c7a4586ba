"""Where samples come from, and how networks see them."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from distiq.recipe.part import Name, Part

WITHOUT_FOLDER = {
    "spoken_digits": 'source = "audio"',
    "digit_strings": 'source = "transcripts"',
    "adult": 'source = "table" with data.table',
}
"""Packaged sets that have no form as a folder, and what reads a folder of the kind."""
Decibels = Annotated[float, Field(ge=-200, le=200)]
"""More than hearing and 24 bits have; a ratio that float32 holds."""
SHORTEST_TEXT = 2  # tokens that a network is shown at least: the length of an exported file begins there


class AudioSettings(Part):
    """Clips of sound: the form that they are brought to, and the speakers who are only in the test set."""

    rate: int = Field(16000, ge=1000, description="samples per second; clips of another rate are resampled")
    seconds: float = Field(
        1.0, gt=0, description="length of the window; shorter clips get silence, longer ones are cut"
    )
    manifest: str = Field(
        "",
        description="audio: a CSV file in `folder` with the columns path, label, and speaker or split;"
        " empty takes train/<class>/*.wav and test/<class>/*.wav",
    )
    held_out: tuple[Name, ...] = Field(
        (), description='speakers whose clips are the test set, such as ["theo"]; empty takes the given split'
    )


class HubSettings(Part):
    """Images or clips of the Hugging Face hub, in place of data.folder; texts have data.text.hub."""

    name: str = Field(
        "", description='a data set such as "uoft-cs/cifar10", or a folder that the package datasets reads; empty: none'
    )
    subset: str = Field("", description="of a data set that has several")
    train: str = Field("train", description='the split to train on, such as "train" or "train[:6000]"')
    test: str = Field("test", description="the split to measure on")
    sample: str = Field("", description="the column of the image or clip; empty takes the only one of its kind")
    label: str = Field("label", description="the column of the class")


class TableSettings(Part):
    """Rows of named columns; source = "table" reads them from two files in data.folder, "adult" has its own."""

    train: str = Field("train.csv", description="table: the file of training rows: CSV, TSV, JSON lines, Parquet")
    test: str = Field("test.csv", description="table: the file of test rows")
    header: tuple[Name, ...] = Field((), description="names of all columns, where the files' first line is no header")
    label: Name = Field("label", description="the column of the class")
    target: Name = Field(
        "", description="in place of `label`, for regression: the column of a number, which the model learns to predict"
    )
    numeric: tuple[Name, ...] = Field((), description="columns of numbers; adult: empty takes all")
    categorical: tuple[Name, ...] = Field((), description="columns of categories; adult: empty takes all")
    group: Name = Field(
        "", description="a column that says which rows belong together, such as of one patient: none is split up"
    )
    bins: int = Field(64, ge=2, description="inputs that a number is spread over, at most (piecewise linear encoding)")

    @property
    def predicted(self) -> str:
        """The column that is learned."""
        return self.target or self.label

    @model_validator(mode="after")
    def _label_is_no_feature(self) -> Self:
        for name, columns in (("numeric", self.numeric), ("categorical", self.categorical)):
            if self.predicted in columns:
                raise ValueError(
                    f'{name} names "{self.predicted}", which is the label; a network would learn nothing else'
                )
            if len(set(columns)) < len(columns):
                raise ValueError(f"{name} names a column twice: {', '.join(columns)}")
        return self


class TextSettings(Part):
    """Texts with a class each; source = "text" reads them from two files in data.folder, or from a hub."""

    hub: str = Field(
        "",
        description="in place of data.folder: a data set of the Hugging Face hub, such as stanfordnlp/sst2, or a folder"
        " that the package datasets reads",
    )
    subset: str = Field("", description='of a hub\'s data set that has several, such as "sst2" of nyu-mll/glue')
    train: str = Field(
        "",
        description="the file of training texts: TSV, CSV, JSON lines, Parquet; empty takes train.tsv; of a hub the"
        ' split, such as "train[:6000]"; empty takes "train"',
    )
    test: str = Field(
        "", description='the file of test texts; empty takes test.tsv; of a hub the split; empty takes "test"'
    )
    header: tuple[Name, ...] = Field((), description="names of all columns, where the files' first line is no header")
    text: Name = Field("text", description="the column of the text")
    pair: Name = Field("", description="the column of a second text, where two are judged together")
    label: Name = Field("label", description="the column of the class")
    labels: tuple[Name, ...] = Field(
        (), description="in place of `label`, where a text has several: columns of 0 and 1, one for each label"
    )
    separator: str = Field(
        "", description='what stands between the labels in the column `label`, such as ","; a text may have none then'
    )
    target: Name = Field(
        "", description="in place of `label`, for regression: the column of a number, which the model learns to predict"
    )
    names: tuple[Name, ...] = Field(
        (), description="names of the classes, in the order of their labels: numbers by size, others by their letters"
    )
    group: Name = Field(
        "", description="a column that says which texts belong together, such as of one writer: none is split up"
    )
    tokenizer: str = Field(
        "", description="a folder, a tokenizer.json or a hub name; empty trains a WordPiece on the training texts"
    )
    vocabulary: int = Field(8000, ge=10, description="most tokens of a tokenizer that is trained here")
    length: int = Field(64, ge=3, description="tokens kept of a text; what is cut is counted and said")

    @property
    def parts(self) -> tuple[str, str]:
        """The files of the training and the test texts, or the splits of a hub's data set."""
        ending = "" if self.hub else ".tsv"
        return self.train or f"train{ending}", self.test or f"test{ending}"

    @model_validator(mode="after")
    def _columns_of_a_hub_have_names(self) -> Self:
        if self.hub and self.header:
            raise ValueError(f'header names the columns of files, but hub = "{self.hub}" has names; leave one out')
        if self.subset and not self.hub:
            raise ValueError(f'subset = "{self.subset}" is of a hub\'s data set; name that in hub')
        return self

    @model_validator(mode="after")
    def _label_is_no_text(self) -> Self:
        columns = {"text": self.text, **({"pair": self.pair} if self.pair else {})}
        targets = self.labels or (self.target or self.label,)
        if same := [key for key, column in columns.items() if column in targets]:
            raise ValueError(f'{same[0]} = "{columns[same[0]]}" is the label, too; a network would read it off')
        if self.pair == self.text:
            raise ValueError(f'pair = "{self.pair}" is the first text, too; name another column')
        return self

    @model_validator(mode="after")
    def _labels_are_written_one_way(self) -> Self:
        if self.labels and self.separator:
            raise ValueError("labels names columns of 0 and 1, separator parts one column; leave one of the two out")
        of_classes = {"labels": self.labels, "separator": self.separator, "names": self.names}
        if self.target and (set_too := [key for key, value in of_classes.items() if value]):
            raise ValueError(
                f'target = "{self.target}" is the column of a number, {set_too[0]} is for classes; leave one of the two'
                " out"
            )
        return self


class EntitySettings(Part):
    """Texts whose words have tags; source = "entities". Their tokens are made as data.text says: tokenizer, length."""

    train: str = Field(
        "",
        description="entities: the file of training texts: CoNLL (a word a line, an empty line behind a sentence), or"
        " texts with spans or words with tags as JSON, JSON lines or Parquet; empty takes the one that is called train",
    )
    test: str = Field("", description="entities: the file of test texts; empty takes the one that is called test")
    word: int | None = Field(
        None, description="CoNLL: the column of the word, from 0; -1 is the last; by default found by what it holds"
    )
    tag: int | None = Field(
        None, description="CoNLL: the column of the tag: IOB, BIO, BIOES or BILOU; by default found"
    )
    text: Name = Field("", description='the key of the text; empty takes "text", "sentence" or "content"')
    spans: Name = Field(
        "",
        description="the key of its spans, [[start, end, label], ...] or objects with these keys, or of its words'"
        ' tags; empty takes "spans", "entities", "labels", "ner_tags" and the like',
    )
    names: tuple[Name, ...] = Field(
        (), description='names of the tags in the order of their numbers, such as ["O", "B-PER", "I-PER"]'
    )


class TranscriptSettings(Part):
    """Clips with a text each; source = "transcripts" reads data.audio.manifest, source = "digit_strings" makes some."""

    symbols: Literal["characters", "words"] = Field("characters", description="what a text is written in")
    vocabulary: tuple[str, ...] = Field(
        (), description='the symbols, such as ["yes", "no"]; empty takes those of the training texts; "|" is a space'
    )
    lower: bool = Field(True, description="texts are brought to lower case")
    digits: int = Field(5, ge=1, description="digit_strings: digits of a string, at most")
    strings: int = Field(2400, ge=1, description="digit_strings: how many to train on, with those held out")
    test_strings: int = Field(500, ge=1, description="digit_strings: how many to test on")
    synthetic: int = Field(
        0, ge=0, description="digit_strings: how many more, of the packaged synthetic voices, to train on"
    )


class PairSettings(Part):
    """Texts for embeddings; source = "pairs". Their tokens are made as data.text says: tokenizer, length."""

    train: str = Field(
        "",
        description="pairs: the file of texts to learn from, alone or in pairs; their scores are not read; empty takes"
        " the one that is called train",
    )
    test: str = Field(
        "", description="pairs: the file of pairs with scores to measure on; empty takes the one that is called test"
    )
    header: tuple[Name, ...] = Field((), description="names of all columns, where the files' first line is no header")
    first: Name = Field("", description="the column of the text, or of the first of two; by default found")
    second: Name = Field(
        "", description="the column of the second text, which files to learn from may lack; by default found"
    )
    score: Name = Field("", description="the column of the score: how alike the two are, in any unit; by default found")


class DataSettings(Part):
    """Where the samples come from and how they are split."""

    source: str = Field(
        "fashion_mnist",
        description='"fashion_mnist", "folder" (images), "masks", "boxes" (images with them), "bccd",'
        ' "spoken_digits", "audio", "adult", "table", "text", "entities", "pairs", "transcripts", "digit_strings",'
        ' or "file.py:function"',
    )
    folder: str = Field(
        "",
        description="fashion_mnist: a folder of IDX files (all 60,000 images; empty takes the packaged part);"
        " folder: holds train/<class>/*.png and test/<class>/*.png; entities: holds the files of data.entities (empty"
        ' takes the packaged WNUT-17); bccd: images with boxes, as "boxes" reads them (empty takes the packaged BCCD)',
    )
    download: bool = Field(False, description="fashion_mnist: fetch missing IDX files into `folder`, with checksum")
    train: int = Field(0, ge=0, description="use at most so many training samples; 0 takes all")
    labelled: int = Field(
        0,
        ge=0,
        description="keep the labels of so many training samples alone, to see what labels are worth; 0 keeps all",
    )
    unlabelled: str = Field(
        "",
        description="a folder of images or clips, or a file with a text in each line, without labels: they join the"
        " training samples, and the teacher alone says what they are",
    )
    further: str = Field(
        "",
        description="audio, transcripts: a folder of clips to train on alone, such as synthetic voices: a folder per"
        " class, or clips with texts laid out as those of a training part; none is held out or measured on",
    )
    validation: int | str = Field(
        2000,
        description="training samples held out to steer by; or those of your own: a folder beside train/ and test/, a"
        " file, a split of a hub, or of a manifest. The packaged bccd has 87 of its own: of them at most so many steer,"
        " and the others are trained on",
    )
    calibration: int = Field(512, ge=1, description="training samples held out to calibrate quantization")
    image_size: int | tuple[int, int] = Field(
        32,
        description="images are resized to this height and width; masks, boxes: brought into [height, width] with the"
        " ratio of their sides kept, such as [240, 320]",
    )
    void: int = Field(255, ge=0, le=255, description="masks: the value of pixels that belong to no class, beside 255")
    group: str = Field(
        "",
        description="masks, boxes: a regular expression; images whose names match it alike belong together, such as"
        ' "^[^_]+" for the sequence before the first _; none is split up',
    )
    channels: Literal[1, 3] = Field(3, description="folder: 1 reads grey, 3 reads colour")
    memory_mb: int = Field(
        4000,
        ge=0,
        description="folder: images that take more than this, decoded, are packed into a file in the run's cache once"
        " and read from there",
    )
    hub: HubSettings = Field(default_factory=HubSettings)
    audio: AudioSettings = Field(default_factory=AudioSettings)
    table: TableSettings = Field(default_factory=TableSettings)
    text: TextSettings = Field(default_factory=TextSettings)
    entities: EntitySettings = Field(default_factory=EntitySettings)
    pairs: PairSettings = Field(default_factory=PairSettings)
    transcripts: TranscriptSettings = Field(default_factory=TranscriptSettings)

    @property
    def validation_part(self) -> str:
        """The folder, file or split that holds validation samples; empty where they are held out."""
        return self.validation if isinstance(self.validation, str) else ""

    @property
    def image_sides(self) -> tuple[int, int]:
        """Height and width of images."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    @model_validator(mode="after")
    def _images_have_sides(self) -> Self:
        if min(self.image_sides) < 1:
            raise ValueError(f"image_size = {self.image_size}: give a height and a width of 1 pixel at least")
        return self

    @model_validator(mode="after")
    def _group_is_a_pattern(self) -> Self:
        try:
            re.compile(self.group)
        except re.error as error:
            raise ValueError(f'group = "{self.group}" is no regular expression ({error})') from error
        if self.group and self.source not in ("masks", "boxes", "bccd"):
            raise ValueError(f'group is for source = "masks" and "boxes"; of "{self.source}" leave it out')
        return self

    @model_validator(mode="after")
    def _further_clips_are_of_folders(self) -> Self:
        if self.further and self.source not in ("audio", "transcripts"):
            raise ValueError(
                f'further = "{self.further}" is for source = "audio" and "transcripts"; of "{self.source}" leave it out'
            )
        return self

    @model_validator(mode="after")
    def _validation_is_a_number_or_a_place(self) -> Self:
        if isinstance(self.validation, int) and self.validation < 1:
            raise ValueError(f"validation = {self.validation}: hold out at least 1 training sample, or name a place")
        has_one_set = self.source in (*WITHOUT_FOLDER, "fashion_mnist") or ".py:" in self.source
        has_one_set = has_one_set or (self.source == "bccd" and not self.folder)
        if self.validation_part and has_one_set:
            raise ValueError(
                f'validation = "{self.validation}" is a folder, a file or a split, but source = "{self.source}" has'
                " none; give a number"
            )
        if self.validation == "":
            raise ValueError('validation = "": give a number, or name a folder, a file or a split')
        return self

    @model_validator(mode="after")
    def _a_packaged_set_takes_no_folder(self) -> Self:
        if self.folder and (own := WITHOUT_FOLDER.get(self.source)):
            raise ValueError(
                f'source = "{self.source}" is the packaged set and would not read folder = "{self.folder}";'
                f" leave it out, or take {own}"
            )
        return self

    @model_validator(mode="after")
    def _files_come_from_one_place(self) -> Self:
        if not self.hub.name:
            return self
        if self.source not in ("folder", "audio"):
            raise ValueError(
                f'hub.name = "{self.hub.name}" is for source = "folder" (images) and "audio"; texts have text.hub'
            )
        for key, value in (("folder", self.folder), ("audio.manifest", self.audio.manifest)):
            if value:
                raise ValueError(
                    f'hub.name = "{self.hub.name}" and {key} = "{value}" are two places; leave one of the two out'
                )
        return self

    @model_validator(mode="after")
    def _texts_come_from_one_place(self) -> Self:
        if self.text.hub and (self.folder or self.source != "text"):
            other = f'folder = "{self.folder}"' if self.folder else f'source = "{self.source}"'
            raise ValueError(f'text.hub = "{self.text.hub}" and {other} are two places; leave one of the two out')
        return self


class AudioViewSettings(Part):
    """What a view does to a clip; images are not touched by it."""

    shift: float = Field(0.1, ge=0, le=1, description="move in time by up to this share of the window, either way")
    speed: float = Field(0.0, ge=0, lt=1, description="play faster or slower by up to this share, pitch with it")
    stretch: float = Field(0.0, ge=0, lt=1, description="spoken faster or slower by up to this share, at its own pitch")
    voice: float = Field(
        0.0, ge=0, lt=1, description="pitch and formants higher or lower by up to this share, at their own pace"
    )
    curve_db: float = Field(
        0.0,
        ge=0,
        le=200,
        description="as another microphone would hear it: low and high frequencies by up to so many decibels",
    )
    gain_db: Decibels | tuple[Decibels, Decibels] = Field(
        6.0, description="louder or quieter by up to so many decibels, or by what lies between two, such as [-20, 6]"
    )
    noise: float = Field(0.0, ge=0, le=1, description="share of the clips that get white noise")
    snr_db: tuple[Decibels, Decibels] = Field((5.0, 40.0), description="lowest and highest signal-to-noise ratio of it")
    mask: float = Field(0.0, ge=0, le=1, description="longest stretch of silence put over a clip, share of the window")

    @property
    def gains_db(self) -> tuple[float, float]:
        """The lowest gain and the highest."""
        return self.gain_db if isinstance(self.gain_db, tuple) else (-self.gain_db, self.gain_db)

    @model_validator(mode="after")
    def _gains_are_a_range(self) -> Self:
        if self.gains_db[0] > self.gains_db[1]:
            found = list(self.gain_db) if isinstance(self.gain_db, tuple) else self.gain_db
            raise ValueError(f"gain_db = {found}: give a number from 0 on, or the lowest gain and the highest")
        return self

    @model_validator(mode="after")
    def _snr_is_a_range(self) -> Self:
        if self.snr_db[0] > self.snr_db[1]:
            raise ValueError(f"snr_db = {list(self.snr_db)} begins above its end; give the lowest first")
        return self


class TextViewSettings(Part):
    """What a view does to a text that students learn from; needs a teacher, since labels may not hold any more."""

    mask: float = Field(0.0, ge=0, le=1, description="share of the tokens that are hidden behind the mask token")
    replace: float = Field(
        0.0, ge=0, le=1, description="share of the tokens in whose place stands one drawn from all training texts"
    )

    @model_validator(mode="after")
    def _at_most_every_token(self) -> Self:
        if self.mask + self.replace > 1:
            raise ValueError(
                f"mask + replace = {self.mask + self.replace:g} is more than every token; at most 1 in sum"
            )
        return self


class ViewSettings(Part):
    """Augmented views of the training samples; each is a pure function of (seed, view number, sample index)."""

    distinct: int = Field(
        0, ge=0, description="students learn from so many views in turn, each predicted once; 0: a new one every epoch"
    )
    flip: bool = Field(True, description="mirror half of the images from left to right")
    flip_vertical: bool = Field(
        False, description="mirror half of them from top to bottom, where neither is up: microscopes, aerial images"
    )
    shift: int = Field(2, ge=0, description="move by up to so many pixels, filled with black")
    scale: float = Field(
        0.0, ge=0, le=3, description="of masks and boxes: enlarge or shrink by up to this share, such as 0.5"
    )
    mosaic: float = Field(
        0.0, ge=0, le=1, description="of masks and boxes: share of the images that are joined with three others"
    )
    min_visibility: float = Field(
        0.25, ge=0, lt=1, description="of boxes: one that a view cuts to less than this share of its area is dropped"
    )
    colour: float = Field(0.0, ge=0, lt=1, description="change brightness and contrast by up to this share")
    crop: float = Field(1.0, gt=0, le=1, description="smallest share of the area that a crop keeps; 1 never crops")
    erase: float = Field(0.0, ge=0, le=1, description="share of the images in which a rectangle is erased")
    mixup: float = Field(
        0.0, ge=0, le=1, description="share of the images that are blended with another one (Zhang et al. 2018)"
    )
    cutmix: float = Field(
        0.0, ge=0, le=1, description="share of the images that get a rectangle of another one (Yun et al. 2019)"
    )
    audio: AudioViewSettings = Field(default_factory=AudioViewSettings)
    text: TextViewSettings = Field(default_factory=TextViewSettings)

    @model_validator(mode="after")
    def _one_kind_of_mixing_an_image(self) -> Self:
        if self.mixup + self.cutmix > 1:
            raise ValueError(
                f"mixup + cutmix = {self.mixup + self.cutmix:g} is more than every image; at most 1 in sum"
            )
        return self

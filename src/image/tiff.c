/*
 * TIFF by libtiff, which undoes compression, predictors and byte orders, one chunk (a strip or a tile)
 * at a time. tiff.rs interprets the samples, because libtiff's own conversion takes a fourth sample of RGB
 * for alpha, even if the file says that it is none.
 *
 * libtiff decodes some damaged data to the end and only warns. While pixels are read, a warning is an
 * error here, unless it has no bearing on pixels (see `handle_warning`).
 */
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <tiffio.h>

#include "failure.h"

struct photosearch_tiff {
    TIFF *tiff;
    struct photosearch_failure failure;
    const uint8_t *bytes;
    uint64_t length, position;
    /* Whether pixels are being read. */
    int reading;
    /* Whether the failure is about an entry of the directory that pixels depend on. */
    int about_pixels;
    /* Whether ExtraSamples states fewer kinds than there are samples; libtiff invents the rest. */
    int kinds_made_up;
    /* Whether StripByteCounts contradicts the size of the picture; libtiff computes it instead. */
    int lengths_made_up;
};

/*
 * Entries that pixels depend on, as libtiff quotes them in its messages. libtiff drops an entry that it
 * cannot read and goes on as if the file did not have it.
 */
static const char *const pixel_entries[] = {
    "\"BitsPerSample\"",       "\"Compression\"",         "\"PhotometricInterpretation\"",
    "\"FillOrder\"",           "\"JPEGTables\"",          "\"SamplesPerPixel\"",
    "\"RowsPerStrip\"",        "\"PlanarConfiguration\"", "\"Group3Options\"",
    "\"Group4Options\"",       "\"Predictor\"",           "\"ColorMap\"",
    "\"TileWidth\"",           "\"TileLength\"",          "\"InkSet\"",
    "\"ExtraSamples\"",        "\"SampleFormat\"",
    "\"YCbCrCoefficients\"",   "\"YCbCrSubsampling\"",    "\"ReferenceBlackWhite\"",
    "\"StripOffsets\"",        "\"TileOffsets\"",
};

/* The content of the first directory. `TiffHeader` in tiff.rs is the same struct. */
struct photosearch_tiff_header {
    uint32_t width, height;
    /* The size of a chunk. A strip is as wide as the picture. */
    uint32_t chunk_width, chunk_height;
    /* ReferenceBlackWhite and YCbCrCoefficients, if the picture is in YCbCr. */
    float black_white[6], luma[3];
    uint16_t tiled, separate;
    /* 1 if libtiff has computed the lengths of the strips, as the file's contradict the picture's size. */
    uint16_t lengths_made_up;
    uint16_t compression, predictor, photometric, ink_set, orientation;
    uint16_t samples, bits, sample_format;
    /* The kinds of the samples after the colours, and the number of kinds that the file states. */
    uint16_t extra_kinds[8], extra_count;
    /* Chroma subsampling: the number of pixels across and down that share their chroma. */
    uint16_t chroma_across, chroma_down;
};

/* Stores a failure. Only the first one is kept, as later ones follow from it. */
static void fail(struct photosearch_tiff *file, int kind, const char *message)
{
    if (file->failure.kind != PHOTOSEARCH_OK)
        return;
    file->failure.kind = kind;
    snprintf(file->failure.message, sizeof file->failure.message, "%s", message);
}

static void fail_with(struct photosearch_tiff *file, int warning, const char *format,
                      va_list arguments)
{
    char message[256];
    int kind = PHOTOSEARCH_DAMAGED;
    /* Don't format a message that cannot change the failure: a damaged fax has one for each row. */
    if (file->failure.kind != PHOTOSEARCH_OK && (file->reading || file->about_pixels))
        return;
    vsnprintf(message, sizeof message, format, arguments);
    size_t length = strlen(message);
    if (length > 0 && message[length - 1] == '.')
        message[length - 1] = 0;
    for (size_t i = 0; i < sizeof pixel_entries / sizeof *pixel_entries; i++)
        if (!file->reading && strstr(message, pixel_entries[i])) {
            file->about_pixels = 1;
            file->failure.kind = PHOTOSEARCH_OK; /* replace a failure that has no bearing on pixels */
        }
    if (warning && !file->reading && !file->about_pixels)
        return; /* about unknown entries or unusual types */
    /* libtiff's errors have no codes, only messages. */
    if (strstr(message, "Cannot handle different values per")) {
        fail(file, PHOTOSEARCH_UNSUPPORTED, "samples with different numbers of bits or formats");
        return;
    }
    if (strstr(message, "limit defined in open options"))
        kind = PHOTOSEARCH_TOO_MUCH_MEMORY;
    fail(file, kind, message);
}

static int handle_error(TIFF *tiff, void *user_data, const char *module, const char *format,
                  va_list arguments)
{
    (void)tiff;
    (void)module;
    fail_with(user_data, 0, format, arguments);
    return 1; /* libtiff's default handler is not called */
}

static int handle_warning(TIFF *tiff, void *user_data, const char *module, const char *format,
                  va_list arguments)
{
    struct photosearch_tiff *file = user_data;
    (void)tiff;
    (void)module;
    /*
     * Warnings about files whose pixels are complete: an early version of LZW, a coding that is unusual
     * in TIFF, rows below the picture in its last strip.
     */
    static const char *const harmless[] = {
        "Old-style LZW codes",
        "The JPEG strip/tile is encoded with progressive mode",
        "JPEG strip size exceeds expected dimensions",
    };
    for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++)
        if (strncmp(format, harmless[i], strlen(harmless[i])) == 0)
            return 1;
    if (strstr(format, "and ExtraSamples doesn't match"))
        file->kinds_made_up = 1;
    if (strstr(format, "\"StripByteCounts\" field, ignoring"))
        file->lengths_made_up = 1;
    fail_with(file, 1, format, arguments);
    return 1;
}

static tmsize_t read_bytes(thandle_t handle, void *to, tmsize_t count)
{
    struct photosearch_tiff *file = handle;
    uint64_t left = file->position < file->length ? file->length - file->position : 0;
    uint64_t read = count < 0 ? 0 : (uint64_t)count < left ? (uint64_t)count : left;
    if (read > 0)
        memcpy(to, file->bytes + file->position, (size_t)read);
    file->position += read;
    return (tmsize_t)read;
}

static tmsize_t write_bytes(thandle_t handle, void *from, tmsize_t count)
{
    (void)handle;
    (void)from;
    (void)count;
    return -1;
}

static toff_t seek(thandle_t handle, toff_t offset, int whence)
{
    struct photosearch_tiff *file = handle;
    uint64_t from = whence == SEEK_CUR ? file->position : whence == SEEK_END ? file->length : 0;
    /* Positions beyond the end are allowed, and reads there return nothing. Negative offsets wrap. */
    file->position = from + offset;
    return file->position;
}

static int close_file(thandle_t handle)
{
    (void)handle;
    return 0;
}

static toff_t size(thandle_t handle)
{
    return ((struct photosearch_tiff *)handle)->length;
}

/*
 * Opens a file and reads its first directory. The bytes must outlive the result. libtiff may take up to
 * `memory` bytes in one allocation. Returns NULL if memory is exhausted; photosearch_tiff_failure tells
 * whether it failed otherwise.
 */
struct photosearch_tiff *photosearch_tiff_new(const uint8_t *bytes, size_t length, uint64_t memory)
{
    struct photosearch_tiff *file = calloc(1, sizeof *file);
    TIFFOpenOptions *options = TIFFOpenOptionsAlloc();
    if (file == NULL || options == NULL) {
        free(file);
        if (options != NULL)
            TIFFOpenOptionsFree(options);
        return NULL;
    }
    file->bytes = bytes;
    file->length = length;
    TIFFOpenOptionsSetErrorHandlerExtR(options, handle_error, file);
    TIFFOpenOptionsSetWarningHandlerExtR(options, handle_warning, file);
    TIFFOpenOptionsSetMaxSingleMemAlloc(options, memory < INT64_MAX ? (tmsize_t)memory : INT64_MAX);
    /* m: no memory mapping, so that libtiff reads only through the functions above. */
    file->tiff = TIFFClientOpenExt("", "rm", file, read_bytes, write_bytes, seek, close_file, size,
                                   NULL, NULL, options);
    TIFFOpenOptionsFree(options);
    if (file->tiff == NULL)
        fail(file, PHOTOSEARCH_DAMAGED, "its directory cannot be read");
    else if (!file->about_pixels)
        file->failure.kind = PHOTOSEARCH_OK; /* damage has no bearing on pixels */
    return file;
}

void photosearch_tiff_free(struct photosearch_tiff *file)
{
    if (file->tiff != NULL)
        TIFFClose(file->tiff);
    free(file);
}

/* The first failure. Valid as long as the file. */
const struct photosearch_failure *photosearch_tiff_failure(const struct photosearch_tiff *file)
{
    return &file->failure;
}

/* Stores the content of the directory in `header`. Returns 1, or 0 if it failed. */
int photosearch_tiff_read_header(struct photosearch_tiff *file,
                                 struct photosearch_tiff_header *header)
{
    TIFF *tiff = file->tiff;
    uint16_t planes = PLANARCONFIG_CONTIG, extra_count = 0;
    uint16_t *extra = NULL;
    float *values = NULL;

    memset(header, 0, sizeof *header);
    if (!TIFFGetField(tiff, TIFFTAG_IMAGEWIDTH, &header->width) ||
        !TIFFGetField(tiff, TIFFTAG_IMAGELENGTH, &header->height) ||
        !TIFFGetFieldDefaulted(tiff, TIFFTAG_BITSPERSAMPLE, &header->bits) ||
        !TIFFGetFieldDefaulted(tiff, TIFFTAG_SAMPLESPERPIXEL, &header->samples) ||
        !TIFFGetFieldDefaulted(tiff, TIFFTAG_COMPRESSION, &header->compression) ||
        !TIFFGetFieldDefaulted(tiff, TIFFTAG_SAMPLEFORMAT, &header->sample_format) ||
        !TIFFGetFieldDefaulted(tiff, TIFFTAG_PLANARCONFIG, &planes)) {
        fail(file, PHOTOSEARCH_DAMAGED, "its directory does not state the size of the picture");
        return 0;
    }
    if (!TIFFGetField(tiff, TIFFTAG_PHOTOMETRIC, &header->photometric)) {
        fail(file, PHOTOSEARCH_DAMAGED, "its directory does not state what the samples mean");
        return 0;
    }
    /* Without the tag, samples have 1 bit by default, which is never meant for several samples. */
    uint16_t bits;
    if (header->samples > 1 && !TIFFGetField(tiff, TIFFTAG_BITSPERSAMPLE, &bits)) {
        fail(file, PHOTOSEARCH_DAMAGED, "its directory does not state the bits of a sample");
        return 0;
    }
    /*
     * If the data are too long for the buffer, libdeflate leaves the buffer empty, and libtiff takes that
     * for success (tif_zip.c). zlib fills the buffer.
     */
    if (header->compression == COMPRESSION_ADOBE_DEFLATE ||
        header->compression == COMPRESSION_DEFLATE)
        TIFFSetField(tiff, TIFFTAG_DEFLATE_SUBCODEC, DEFLATE_SUBCODEC_ZLIB);
    header->separate = planes == PLANARCONFIG_SEPARATE;
    if (!TIFFGetFieldDefaulted(tiff, TIFFTAG_ORIENTATION, &header->orientation))
        header->orientation = ORIENTATION_TOPLEFT;
    if (!TIFFGetFieldDefaulted(tiff, TIFFTAG_INKSET, &header->ink_set))
        header->ink_set = INKSET_CMYK;
    if (!TIFFGetField(tiff, TIFFTAG_PREDICTOR, &header->predictor))
        header->predictor = PREDICTOR_NONE;
    if (TIFFGetField(tiff, TIFFTAG_EXTRASAMPLES, &extra_count, &extra) && extra != NULL) {
        if (file->kinds_made_up)
            fail(file, PHOTOSEARCH_DAMAGED, "it does not state the kinds of all samples");
        header->extra_count = extra_count;
        for (uint16_t i = 0; i < extra_count && i < 8; i++)
            header->extra_kinds[i] = extra[i];
    }
    if (header->photometric == PHOTOMETRIC_YCBCR) {
        TIFFGetFieldDefaulted(tiff, TIFFTAG_YCBCRSUBSAMPLING, &header->chroma_across,
                              &header->chroma_down);
        if (TIFFGetFieldDefaulted(tiff, TIFFTAG_YCBCRCOEFFICIENTS, &values) && values != NULL)
            memcpy(header->luma, values, sizeof header->luma);
        if (TIFFGetFieldDefaulted(tiff, TIFFTAG_REFERENCEBLACKWHITE, &values) && values != NULL)
            memcpy(header->black_white, values, sizeof header->black_white);
        /* Makes the JPEG decoder return RGB. With separate planes, each is a JPEG of one component. */
        if (header->compression == COMPRESSION_JPEG && !header->separate)
            TIFFSetField(tiff, TIFFTAG_JPEGCOLORMODE, JPEGCOLORMODE_RGB);
    }
    header->lengths_made_up = file->lengths_made_up != 0;
    header->tiled = TIFFIsTiled(tiff) != 0;
    if (header->tiled) {
        TIFFGetField(tiff, TIFFTAG_TILEWIDTH, &header->chunk_width);
        TIFFGetField(tiff, TIFFTAG_TILELENGTH, &header->chunk_height);
    } else {
        header->chunk_width = header->width;
        TIFFGetFieldDefaulted(tiff, TIFFTAG_ROWSPERSTRIP, &header->chunk_height);
        if (header->chunk_height > header->height)
            header->chunk_height = header->height;
    }
    return file->failure.kind == PHOTOSEARCH_OK;
}

/* Whether libtiff was built with this compression. */
int photosearch_tiff_has_compression(uint16_t compression)
{
    return TIFFIsCODECConfigured(compression);
}

/*
 * Copies the palette: `1 << bits` entries of 16 bits for each of red, green and blue. Returns 0 if there
 * is none.
 */
int photosearch_tiff_read_palette(struct photosearch_tiff *file, uint16_t bits, uint16_t *red,
                                  uint16_t *green, uint16_t *blue)
{
    uint16_t *colours[3];
    size_t bytes = sizeof(uint16_t) << bits;
    if (!TIFFGetField(file->tiff, TIFFTAG_COLORMAP, &colours[0], &colours[1], &colours[2]))
        return 0;
    memcpy(red, colours[0], bytes);
    memcpy(green, colours[1], bytes);
    memcpy(blue, colours[2], bytes);
    return 1;
}

/*
 * Decodes the chunk `index` into `to`. `rows` is the number of rows in a strip; it is ignored for a
 * tile. Fails if the decoded chunk does not have `length` bytes and, if `exact`, also if the stored
 * chunk does not. Returns 1, or 0 if it failed.
 */
int photosearch_tiff_read_chunk(struct photosearch_tiff *file, uint32_t index, uint32_t rows,
                                int exact, uint8_t *to, uint64_t length)
{
    TIFF *tiff = file->tiff;
    int tiled = TIFFIsTiled(tiff);
    tmsize_t read = -1;
    /* For a chunk without an offset in the directory, libtiff returns 0, where the file's header is. */
    if (TIFFGetStrileOffset(tiff, index) == 0)
        fail(file, PHOTOSEARCH_DAMAGED, "strips or tiles of the picture are missing");
    /*
     * Of uncompressed data, libtiff reads as many bytes as it needs, whatever length the file states.
     * Some programs write a length of 0, which is accepted.
     */
    uint16_t compression = COMPRESSION_NONE;
    TIFFGetField(tiff, TIFFTAG_COMPRESSION, &compression);
    uint64_t stored = TIFFGetStrileByteCount(tiff, index);
    if (exact && stored != length)
        fail(file, PHOTOSEARCH_DAMAGED, "its directory does not state the compression");
    if (compression == COMPRESSION_NONE && stored > 0 && stored < length)
        fail(file, PHOTOSEARCH_DAMAGED, "strips or tiles of the picture are too short");
    uint64_t expected = tiled ? TIFFTileSize64(tiff) : TIFFVStripSize64(tiff, rows);
    if (expected == length && file->failure.kind == PHOTOSEARCH_OK) {
        file->reading = 1;
        read = tiled ? TIFFReadEncodedTile(tiff, index, to, (tmsize_t)length)
                     : TIFFReadEncodedStrip(tiff, index, to, (tmsize_t)length);
        file->reading = 0;
    }
    if (read < 0 || (uint64_t)read != length)
        fail(file, PHOTOSEARCH_DAMAGED, "its strips or tiles have another size than it states");
    return file->failure.kind == PHOTOSEARCH_OK;
}

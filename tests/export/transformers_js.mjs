// Opens a bundle with transformers.js as it stands and prints its embeddings: node transformers_js.mjs REQUEST.json
import { readFileSync, writeFileSync } from 'node:fs';
import {
  AutoProcessor, AutoTokenizer, CLIPTextModelWithProjection, CLIPVisionModelWithProjection, RawImage, Tensor, env,
} from '@huggingface/transformers';

const request = JSON.parse(readFileSync(process.argv[2], 'utf8'));
env.allowRemoteModels = false;
env.localModelPath = request.folder;
const options = { dtype: 'fp32', device: 'cpu' };
const rows = (tensor) => tensor.tolist();

const tokenizer = await AutoTokenizer.from_pretrained(request.name);
const text = await CLIPTextModelWithProjection.from_pretrained(request.name, options);
const tokens = tokenizer(request.texts, { padding: 'max_length', truncation: true, max_length: request.length });
const { text_embeds } = await text(tokens);

const vision = await CLIPVisionModelWithProjection.from_pretrained(request.name, options);
const pixel_values = new Tensor('float32', Float32Array.from(request.pixels.flat(3)), request.shape);
const { image_embeds } = await vision({ pixel_values });

const processor = await AutoProcessor.from_pretrained(request.name);
const images = await Promise.all(request.images.map((path) => RawImage.read(path)));
const own = await vision(await processor(images));
writeFileSync(request.out, JSON.stringify({
  ids: rows(tokens.input_ids).map((row) => row.map(Number)),
  text_embeds: rows(text_embeds), image_embeds: rows(image_embeds), own_image_embeds: rows(own.image_embeds),
}));
